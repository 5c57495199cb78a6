//! Mount options in the form of mount(2): flags for generic options, text for the others.

use sys_mount::MountFlags;

use crate::syscalls::{I_VERSION, LAZYTIME, NOSYMFOLLOW};

/// Splits options into the flags of mount(2) and the text for the filesystem. Later options override earlier
/// ones.
pub(crate) fn split(options: &[String]) -> (MountFlags, String) {
    let mut flags = MountFlags::empty();
    let mut data = String::new();
    for option in options {
        match flag(option) {
            Some((bits, true)) => flags.insert(bits),
            Some((bits, false)) => flags.remove(bits),
            None => {
                if !data.is_empty() {
                    data.push(',');
                }
                data.push_str(option);
            }
        }
    }
    (flags, data)
}

/// The flags of an option, and whether it sets or clears them.
fn flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "defaults" => (MountFlags::empty(), true),
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (LAZYTIME, true),
        "nolazytime" => (LAZYTIME, false),
        "iversion" => (I_VERSION, true),
        "noiversion" => (I_VERSION, false),
        _ => return None,
    })
}

/// The flags of a single mount, with their names in mountinfo.
const PER_MOUNT: [(&str, MountFlags); 6] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
];

/// The flags of a mount, from its options in mountinfo. A remount must repeat them, or it clears them.
pub(crate) fn shown(options: &[String]) -> MountFlags {
    let mut flags = MountFlags::empty();
    for option in options {
        match option.as_str() {
            "relatime" => flags.insert(MountFlags::RELATIME),
            "nosymfollow" => flags.insert(NOSYMFOLLOW),
            word => flags.extend(PER_MOUNT.iter().filter(|(name, _)| *name == word).map(|(_, flag)| *flag)),
        }
    }
    flags
}

/// The names of the flags of a single mount; `rw` if no flag is set.
pub(crate) fn words(flags: MountFlags) -> String {
    let set: Vec<_> = PER_MOUNT.iter().filter(|(_, flag)| flags.contains(*flag)).map(|(name, _)| *name).collect();
    if set.is_empty() { "rw".to_owned() } else { set.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_words(words: &[&str]) -> (MountFlags, String) {
        split(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_text_are_separated() {
        let (flags, data) = split_words(&["noatime", "data=ordered", "ro", "context=\"a:b:c:s0:c1,c2\"", "nodev"]);
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!(data, "data=ordered,context=\"a:b:c:s0:c1,c2\"");
    }

    #[test]
    fn the_last_option_wins() {
        assert_eq!(split_words(&["ro", "rw"]), (MountFlags::empty(), String::new()));
        assert_eq!(split_words(&["rw", "ro"]), (MountFlags::RDONLY, String::new()));
    }

    #[test]
    fn no_option_binds_moves_or_remounts() {
        for word in ["bind", "rbind", "remount", "move", "shared", "private"] {
            assert_eq!(
                split_words(&[word]),
                (MountFlags::empty(), word.to_owned()),
                "left for the filesystem to reject"
            );
        }
    }

    #[test]
    fn shown_flags_survive_a_round_trip() {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let shown_words: Vec<String> = words(flags).split(',').map(str::to_owned).collect();
        assert_eq!(shown(&shown_words), flags);
        assert_eq!(shown(&["rw".into(), "relatime".into()]), MountFlags::RELATIME);
        assert_eq!(words(MountFlags::RELATIME), "rw");
    }
}
