//! A thin pool in a volume group, read by lvm.

use std::time::Duration;

use anyhow::Result;

use super::group::{self, GROUP};
use super::{Storage, Stored};

/// The thin pool `thin` in the volume group [`GROUP`]. Its volumes may have many times its size together.
pub struct ThinPool;

impl Storage for ThinPool {
    fn section(&self) -> String {
        format!("lvm: {{volumeGroup: {GROUP}, thinPool: {{name: thin, overprovision: 100}}}}")
    }

    fn make(&self, devices: &[String]) -> String {
        format!("{}; lvcreate -qq -y --type thin-pool -l 50%FREE -n thin {GROUP}", group::Group.make(devices))
    }

    fn look(&self) -> String {
        format!(
            "lvs --noheadings --units b --nosuffix --select 'lv_name!=thin' -o lv_name,lv_tags,lv_size {GROUP} | sed 's/^ *//'"
        )
    }

    fn read(&self, printed: &str) -> Result<Vec<Stored>> {
        group::Group.read(printed)
    }

    fn device(&self, name: &str) -> String {
        group::Group.device(name)
    }

    fn dirty(&self) -> String {
        format!(
            "lvcreate -qq -y -Wn -V 32M --thinpool {GROUP}/thin -n dirt; yes 'a former tenant' | head -c 32M | \
             dd of=/dev/{GROUP}/dirt bs=1M iflag=fullblock conv=fsync status=none; lvremove -qq -y {GROUP}/dirt"
        )
    }

    fn check(&self) -> String {
        group::Group.check()
    }

    fn cleanup_time(&self) -> Duration {
        Duration::ZERO
    }

    fn keeps_halves(&self) -> bool {
        false
    }

    fn parts(&self, _layout: &str) -> usize {
        0
    }

    fn own_devices(&self) -> &'static str {
        "vg0-thin|vg0-thin-tpool|vg0-thin_tdata|vg0-thin_tmeta"
    }
}
