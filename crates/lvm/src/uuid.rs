//! The UUIDs of lvm, with one type each for volume groups, logical volumes and physical volumes: a function
//! that takes two of them cannot be called with the wrong one.
//!
//! A UUID has 32 characters. lvm shows it with hyphens, as `6-4-4-4-4-4-6`, and so do these types. Names of
//! devices in the kernel have the UUIDs without hyphens.

use std::fmt;
use std::str::FromStr;

const LENGTH: usize = 32;

/// The text is not a UUID of lvm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID of lvm: it needs 32 letters and digits")]
pub struct InvalidUuid;

/// The characters of a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Plain([u8; LENGTH]);

impl Plain {
    fn as_str(&self) -> &str {
        // Never empty: only ASCII is accepted.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Default for Plain {
    fn default() -> Self {
        Self([b'0'; LENGTH])
    }
}

impl FromStr for Plain {
    type Err = InvalidUuid;

    fn from_str(text: &str) -> Result<Self, InvalidUuid> {
        // lvm accepts these two characters as well, but does not generate them.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'#');
        let mut characters = text.bytes().filter(|byte| *byte != b'-');
        let mut plain = [0; LENGTH];
        for place in &mut plain {
            *place = characters.next().filter(|byte| allowed(*byte)).ok_or(InvalidUuid)?;
        }
        if characters.next().is_some() { Err(InvalidUuid) } else { Ok(Self(plain)) }
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, character) in self.as_str().chars().enumerate() {
            if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
                f.write_str("-")?;
            }
            write!(f, "{character}")?;
        }
        Ok(())
    }
}

macro_rules! uuid {
    ($name:ident, $of:literal) => {
        #[doc = concat!("The UUID of a ", $of, ".")]
        ///
        /// It is parsed with or without hyphens, and displayed with them. The default is a placeholder that
        /// lvm does not generate.
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Plain);

        impl FromStr for $name {
            type Err = InvalidUuid;

            fn from_str(text: &str) -> Result<Self, InvalidUuid> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

uuid!(VgUuid, "volume group");
uuid!(LvUuid, "logical volume");
uuid!(PvUuid, "physical volume");

impl PvUuid {
    /// A new one, from random bytes.
    #[must_use]
    pub fn of_bytes(random: [u8; LENGTH]) -> Self {
        const CHARACTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        // Some characters are a little more likely than others. That does not matter: there are enough of them.
        Self(Plain(random.map(|byte| CHARACTERS.get(usize::from(byte) % CHARACTERS.len()).copied().unwrap_or(b'0'))))
    }
}

/// The end of the UUID of the layer below a volume that has snapshots: the volume's own data.
pub(crate) const REAL: &str = "-real";
/// The end of the UUID of the layer below a snapshot: the space for overwritten blocks.
pub(crate) const COW: &str = "-cow";
/// The end of the UUID of the layer below the volumes of a thin pool: the pool itself.
pub(crate) const TPOOL: &str = "-tpool";
/// The end of the UUID of a thin pool in which no volume was created yet.
pub(crate) const UNUSED_POOL: &str = "-pool";

/// The beginning of the UUIDs that lvm gives to devices in the kernel.
pub(crate) const LVM: &str = "LVM-";

/// The beginning of the UUIDs that lvm gives to the devices of a volume group in the kernel.
pub(crate) fn device_prefix(group: VgUuid) -> String {
    format!("{LVM}{}", group.0.as_str())
}

/// The UUID that lvm gives to the device of a logical volume in the kernel: `dm/uuid` in sysfs.
#[must_use]
pub fn device_uuid(group: VgUuid, volume: LvUuid) -> String {
    format!("{}{}", device_prefix(group), volume.0.as_str())
}

/// The volume group and the logical volume of the device with that UUID in the kernel. `None` for other
/// devices, including the layers below a logical volume: their UUIDs have a suffix.
#[must_use]
pub fn parse_device_uuid(text: &str) -> Option<(VgUuid, LvUuid)> {
    let (group, volume, end) = parse_layer_uuid(text)?;
    end.is_empty().then_some((group, volume))
}

/// The volume group and the logical volume of the device with that UUID in the kernel, and the end of the UUID, which is
/// empty for the volume's own device, and says which layer another one is. `None` for other devices.
pub(crate) fn parse_layer_uuid(text: &str) -> Option<(VgUuid, LvUuid, &str)> {
    let (group, rest) = text.strip_prefix(LVM)?.split_at_checked(LENGTH)?;
    let (volume, end) = rest.split_at_checked(LENGTH)?;
    Some((group.parse().ok()?, volume.parse().ok()?, end))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A UUID that begins with that label, as far as a UUID can.
    pub(crate) fn uuid<T: FromStr<Err = InvalidUuid>>(label: &str) -> T {
        let plain: String = label.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{plain:0<32}").parse().unwrap_or_else(|error| panic!("{label}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "Zr3Ot2-MsTU-yPvW-5Ttd-gaYN-WeYT-vP8EJt";
    const VOLUME: &str = "ABCDEF-ghij-KLMN-opqr-STUV-wxyz-012345";

    #[test]
    fn a_uuid_is_shown_as_lvm_shows_it() {
        for text in [GROUP, &GROUP.replace('-', "")] {
            assert_eq!(text.parse::<PvUuid>().map(|uuid| uuid.to_string()).as_deref(), Ok(GROUP));
        }
        assert_eq!(format!("{:?}", LvUuid::default()), "LvUuid(000000-0000-0000-0000-0000-0000-000000)");
    }

    #[test]
    fn other_texts_are_not_uuids() {
        for text in ["", "-", &GROUP[1..], &format!("{GROUP}x"), &GROUP.replace('Z', "\""), &GROUP.replace('Z', "ä")] {
            assert_eq!(text.parse::<VgUuid>(), Err(InvalidUuid), "{text:?}");
        }
    }

    #[test]
    fn the_order_is_that_of_the_texts() {
        let mut texts = [VOLUME, GROUP, "0000aa-0000-0000-0000-0000-0000-000000"];
        let mut uuids = texts.map(|text| text.parse::<VgUuid>().expect("a UUID"));
        texts.sort_unstable();
        uuids.sort_unstable();
        assert_eq!(uuids.map(|uuid| uuid.to_string()), texts);
    }

    #[test]
    fn device_uuids_round_trip() {
        let (group, volume) = (GROUP.parse().expect("a UUID"), VOLUME.parse().expect("a UUID"));
        let device = device_uuid(group, volume);
        assert_eq!(device, "LVM-Zr3Ot2MsTUyPvW5TtdgaYNWeYTvP8EJtABCDEFghijKLMNopqrSTUVwxyz012345");
        assert_eq!(parse_device_uuid(&device), Some((group, volume)));
        for other in
            ["", "LVM-", "CRYPT-LUKS2-x", &format!("{device}-real"), &device[..67], &format!("LVM-{GROUP}{VOLUME}")]
        {
            assert_eq!(parse_device_uuid(other), None, "{other:?}");
        }
    }
}
