//! A volume group, read by lvm.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Storage, Stored, Volume};

/// The volume group of the pool that every node has.
pub const GROUP: &str = "vg0";

/// The volume group [`GROUP`].
pub struct Group;

impl Storage for Group {
    fn section(&self) -> String {
        format!("lvm: {{volumeGroup: {GROUP}}}")
    }

    fn make(&self, devices: &[String]) -> String {
        match devices {
            [] => String::new(),
            devices => format!("vgcreate -qq {GROUP} {}", devices.join(" ")),
        }
    }

    fn look(&self) -> String {
        format!("lvs -a --noheadings --units b --nosuffix -o lv_name,lv_tags,lv_size {GROUP} | sed 's/^ *//'")
    }

    fn read(&self, printed: &str) -> Result<Vec<Stored>> {
        let found = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let size = words.last().and_then(|size| size.parse().ok());
            let size = size.with_context(|| format!("lvs says {line:?}"))?;
            let record = if words.len() > 2 { words[1].to_owned() } else { String::new() };
            // Names in brackets are the parts of others.
            let volume = (!line.starts_with('[')).then_some(Volume { size, record });
            Ok(Stored { text: line.to_owned(), volume })
        };
        printed.lines().filter(|line| !line.trim().is_empty()).map(found).collect()
    }

    fn device(&self, name: &str) -> String {
        format!("/dev/{GROUP}/{name}")
    }

    fn dirty(&self) -> String {
        format!(
            "lvcreate -qq -y -Wn -Zn -l 8 -n dirt {GROUP} $(pvs --noheadings -o pv_name | sort | head -n 1); \
             yes 'a former tenant' | dd of=/dev/{GROUP}/dirt bs=1M count=32 iflag=fullblock conv=fsync status=none; \
             lvremove -qq -y {GROUP}/dirt; sync $(pvs --noheadings -o pv_name)"
        )
    }

    fn check(&self) -> String {
        format!("vgck {GROUP}")
    }

    fn cleanup_time(&self) -> Duration {
        Duration::ZERO
    }

    fn keeps_halves(&self) -> bool {
        false
    }

    fn parts(&self, layout: &str) -> usize {
        // Two images, and what each of them keeps of itself.
        if layout == "raid1" { 4 } else { 0 }
    }
}
