//! Tests of whole claims, on a disk in memory that can lose power at every instant.

mod cuts;
mod damage;
mod double;
mod extended;
mod golden;
mod refused;
mod repair;
mod tools;

use super::*;
use double::{Before, Double};

const NAME: &str = "pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11";
const OTHER: &str = "pvc-other";
const NEW: &[u8] =
    b"quarry1/s=new/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm";
const READY: &[u8] =
    b"quarry1/s=ready/n=pvc-6f0c2b1e-7c3a-4a50-9a4c-0f6f5b1f3f11/b=10737418240/a=m/f=ext4/l=l/p=abcdefghijklm";
const MIB: u64 = 1 << 20;

/// Disks of both sector sizes: the smallest; one with an unaligned size; one with more sectors than fit into
/// an MBR; and one that is full of noise.
fn disks() -> Vec<Double> {
    let mut disks = Vec::new();
    for sector_size in [512, 4096] {
        for size in [4 * MIB, 10 * MIB + 5 * 4096, (20 << 40) + 7 * 4096] {
            disks.push(Double::new(size, sector_size, Before::Zeros));
        }
        disks.push(Double::new(16 * MIB, sector_size, Before::Noise(u64::from(sector_size))));
    }
    disks
}

/// A disk of 16 MiB with a claim that was never used.
fn claimed(sector_size: u32) -> (Double, Claim) {
    let disk = Double::new(16 * MIB, sector_size, Before::Zeros);
    let claim = claim(&disk, NAME, NEW).unwrap();
    (disk, claim)
}

/// A disk of 16 MiB with a claim in use.
fn ready(sector_size: u32) -> (Double, Claim) {
    let (disk, new) = claimed(sector_size);
    let claim = set_record(&disk, &new, READY).unwrap();
    (disk, claim)
}
