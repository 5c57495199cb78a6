//! Names of volume groups that leave enough room for the names of volumes.

use quarry_volume::is_plain_name;

/// The maximum length of a volume group's name with hyphens doubled. Together with a hyphen, the longest name
/// of a volume ([`quarry_volume::safe_name`], 60 bytes with hyphens doubled) and lvm's own suffixes (such as
/// `_rimage_127`, `-real` and `-cow`, up to 13 bytes), it fits into the 127 bytes of a device-mapper name.
const LONGEST_GROUP_DOUBLED: usize = 53;

/// Whether any volume name fits in a volume group with this name.
#[must_use]
pub fn vg_name_fits(name: &str) -> bool {
    is_plain_name(name) && name.replace('-', "--").len() <= LONGEST_GROUP_DOUBLED
}

#[cfg(test)]
mod tests {
    use quarry_volume::safe_name;

    use super::*;
    use crate::VolumeGroup;

    #[test]
    fn volume_group_names() {
        for name in ["vg0", "pool-a", "data_1.x+y", &"v".repeat(53), &"-v".repeat(17)[1..]] {
            assert!(vg_name_fits(name), "{name}");
        }
        for name in ["", ".", "..", "-vg", "a/b", "a b", "ä", &"v".repeat(54), &"v-".repeat(18)] {
            assert!(!vg_name_fits(name), "{name}");
        }
        let group = VolumeGroup { name: "v".repeat(53), ..VolumeGroup::default() };
        let longest = group.mapper_path(&safe_name(&"a".repeat(48))).file_name().expect("a name").len();
        assert!(longest + "_rimage_127".len() <= 127);
    }
}
