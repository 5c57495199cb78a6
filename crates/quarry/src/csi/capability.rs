//! Flags that describe how a volume is used.

use clap::ValueEnum;
use quarry_proto::csi::v1::VolumeCapability;
use quarry_proto::csi::v1::volume_capability::access_mode::Mode;
use quarry_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};

/// The flags that describe a use of a volume.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Use {
    /// A mounted filesystem of this type; without --fs and --block the driver chooses one.
    #[arg(long = "fs", value_name = "TYPE")]
    filesystem: Option<String>,
    /// A raw block device.
    #[arg(long)]
    block: bool,
    /// A mount option; may be given several times.
    #[arg(long = "mount-option", value_name = "OPTION")]
    mount_options: Vec<String>,
    /// The access mode.
    #[arg(long = "access", value_name = "MODE", value_delimiter = ',', default_value = "single-node-writer")]
    modes: Vec<Access>,
}

/// The access modes, as CSI calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Access {
    SingleNodeWriter,
    SingleNodeReaderOnly,
    SingleNodeSingleWriter,
    SingleNodeMultiWriter,
    MultiNodeReaderOnly,
    MultiNodeSingleWriter,
    MultiNodeMultiWriter,
}

impl Use {
    /// Every combination of the flags: a volume may be created for a filesystem and for block, and for
    /// several access modes.
    pub(crate) fn all(&self) -> Vec<VolumeCapability> {
        let mut types = Vec::new();
        if self.filesystem.is_some() || !self.block {
            types.push(AccessType::Mount(MountVolume {
                fs_type: self.filesystem.clone().unwrap_or_default(),
                mount_flags: self.mount_options.clone(),
                ..Default::default()
            }));
        }
        if self.block {
            types.push(AccessType::Block(BlockVolume {}));
        }
        let of_type = |access_type: AccessType| {
            self.modes.iter().map(move |mode| VolumeCapability {
                access_mode: Some(AccessMode { mode: mode.wire().into() }),
                access_type: Some(access_type.clone()),
            })
        };
        types.into_iter().flat_map(of_type).collect()
    }

    /// The one use that the flags describe.
    ///
    /// # Errors
    /// The flags describe more than one use.
    pub(crate) fn one(&self) -> anyhow::Result<VolumeCapability> {
        let mut all = self.all();
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => anyhow::bail!(
                "a volume is staged or published for one use: give either --fs or --block, and one --access mode"
            ),
        }
    }
}

impl Access {
    fn wire(self) -> Mode {
        match self {
            Self::SingleNodeWriter => Mode::SingleNodeWriter,
            Self::SingleNodeReaderOnly => Mode::SingleNodeReaderOnly,
            Self::SingleNodeSingleWriter => Mode::SingleNodeSingleWriter,
            Self::SingleNodeMultiWriter => Mode::SingleNodeMultiWriter,
            Self::MultiNodeReaderOnly => Mode::MultiNodeReaderOnly,
            Self::MultiNodeSingleWriter => Mode::MultiNodeSingleWriter,
            Self::MultiNodeMultiWriter => Mode::MultiNodeMultiWriter,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        usage: Use,
    }

    fn read(line: &str) -> Use {
        Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).unwrap().usage
    }

    #[test]
    fn one_use_from_flags() {
        let plain = read("").one().unwrap();
        assert_eq!(plain.access_type, Some(AccessType::Mount(MountVolume::default())));
        assert_eq!(plain.access_mode.unwrap().mode(), Mode::SingleNodeWriter);
        let mount = read("--fs xfs --mount-option noatime --mount-option discard --access single-node-multi-writer");
        let mount = mount.one().unwrap();
        assert_eq!(mount.access_mode.unwrap().mode(), Mode::SingleNodeMultiWriter);
        let Some(AccessType::Mount(mount)) = mount.access_type else { panic!("not a mount") };
        assert_eq!((mount.fs_type.as_str(), mount.mount_flags), ("xfs", vec!["noatime".into(), "discard".into()]));
        assert_eq!(read("--block").one().unwrap().access_type, Some(AccessType::Block(BlockVolume {})));
    }

    #[test]
    fn only_create_accepts_several_uses() {
        let both = read("--fs ext4 --block --access single-node-single-writer,single-node-multi-writer");
        assert_eq!(both.all().len(), 4);
        assert!(both.one().unwrap_err().to_string().contains("--block"));
    }

    #[test]
    fn every_mode_of_the_interface_has_a_flag() {
        let mut modes: Vec<i32> = Access::value_variants().iter().map(|mode| mode.wire().into()).collect();
        modes.sort_unstable();
        assert_eq!(modes, (1..=7).collect::<Vec<i32>>());
        assert!(Mode::try_from(8).is_err());
    }
}
