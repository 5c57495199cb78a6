//! What 100,000 PersistentVolumes cost in memory. Alone in its process, so that nothing else is measured.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;

use quarry_kubernetes::Volumes;

/// Pages of memory in use by this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_hundred_thousand_volumes_fit() {
    const COUNT: usize = 100_000;
    let (mut name, mut handle) = (String::with_capacity(64), String::with_capacity(128));
    let mut volumes = Volumes::default();
    let before = resident();
    let mut length = 0;
    for number in 0..COUNT {
        name.clear();
        handle.clear();
        write!(name, "pvc-{:08x}-7c3a-4a50-9a4c-{:012x}", number * 40_503, number * 7_919).unwrap();
        write!(handle, "v1:d5hwhwt27w:worker-{}.example.org:{name}", number % 5_000).unwrap();
        length += handle.len();
        volumes.insert(&name, &handle);
    }
    let each = (resident() - before - length) / COUNT;
    // Keeps the optimizer from removing it because it is never read.
    std::hint::black_box(&volumes);
    assert!(each <= 170, "{each} bytes per volume beside its handle");
    println!("{each} bytes per volume beside its handle");
}
