//! Mount options as mount(2) wants them: bits for what every filesystem knows, text for the rest.

use nix::mount::MsFlags;

/// Splits option words into the flags of mount(2) and the text for the filesystem. Later words win over earlier ones.
pub(crate) fn split(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
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

/// The bits that a word stands for, and whether it sets or clears them.
fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "defaults" => (MsFlags::empty(), true),
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "nolazytime" => (MsFlags::MS_LAZYTIME, false),
        "iversion" => (MsFlags::MS_I_VERSION, true),
        "noiversion" => (MsFlags::MS_I_VERSION, false),
        _ => return None,
    })
}

/// The flags that belong to one mount, with the words under which mountinfo shows them.
const PER_MOUNT: [(&str, MsFlags); 6] = [
    ("ro", MsFlags::MS_RDONLY),
    ("nosuid", MsFlags::MS_NOSUID),
    ("nodev", MsFlags::MS_NODEV),
    ("noexec", MsFlags::MS_NOEXEC),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodiratime", MsFlags::MS_NODIRATIME),
];

/// The flags that a mount has, from its words in mountinfo. A remount has to repeat them, or it clears them.
pub(crate) fn shown(options: &[String]) -> MsFlags {
    let mut flags = MsFlags::empty();
    for option in options {
        match option.as_str() {
            "relatime" => flags.insert(MsFlags::MS_RELATIME),
            // Linux 5.10; nix has no name for it.
            "nosymfollow" => flags.insert(MsFlags::from_bits_retain(0x100)),
            word => flags.extend(PER_MOUNT.iter().filter(|(name, _)| *name == word).map(|(_, flag)| *flag)),
        }
    }
    flags
}

/// The words for the flags that belong to one mount; `rw` when there are none.
pub(crate) fn words(flags: MsFlags) -> String {
    let set: Vec<_> = PER_MOUNT.iter().filter(|(_, flag)| flags.contains(*flag)).map(|(name, _)| *name).collect();
    if set.is_empty() { "rw".to_owned() } else { set.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_words(words: &[&str]) -> (MsFlags, String) {
        split(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn flags_and_text_are_told_apart() {
        let (flags, data) = split_words(&["noatime", "data=ordered", "ro", "context=\"a:b:c:s0:c1,c2\"", "nodev"]);
        assert_eq!(flags, MsFlags::MS_NOATIME | MsFlags::MS_RDONLY | MsFlags::MS_NODEV);
        assert_eq!(data, "data=ordered,context=\"a:b:c:s0:c1,c2\"");
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(split_words(&["ro", "rw"]), (MsFlags::empty(), String::new()));
        assert_eq!(split_words(&["rw", "ro"]), (MsFlags::MS_RDONLY, String::new()));
    }

    #[test]
    fn no_word_binds_moves_or_remounts() {
        for word in ["bind", "rbind", "remount", "move", "shared", "private"] {
            assert_eq!(split_words(&[word]), (MsFlags::empty(), word.to_owned()), "left for the filesystem to refuse");
        }
    }

    #[test]
    fn shown_flags_survive_a_round_trip() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let shown_words: Vec<String> = words(flags).split(',').map(str::to_owned).collect();
        assert_eq!(shown(&shown_words), flags);
        assert_eq!(shown(&["rw".into(), "relatime".into()]), MsFlags::MS_RELATIME);
        assert_eq!(words(MsFlags::MS_RELATIME), "rw");
    }
}
