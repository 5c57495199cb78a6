//! Mount options of a StorageClass, checked against the allow-list.

use std::collections::BTreeMap;

use super::OptionError;
use super::tables;
use super::value::{LONGEST, Value, quote};
use crate::{Discard, Filesystem};

/// Options that are the default anyway.
const DEFAULTS: &[&str] = &["defaults", "rw", "atime", "diratime", "dev", "suid", "exec", "async"];

/// The option against discards.
const NODISCARD: &str = "nodiscard";

/// Permitted mount options. Two are equal if they have the same effect, in any order and spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The options by subject.
    words: BTreeMap<String, String>,
}

impl MountOptions {
    /// Parses CSI's `mount_flags`: each may hold several options, separated by commas (commas in double
    /// quotes do not separate).
    ///
    /// # Errors
    /// Any option that is not on the allow-list of that filesystem, and options that contradict each other.
    pub fn parse(kind: Filesystem, flags: &[String]) -> Result<Self, OptionError> {
        let refuse = |problem: String| OptionError { place: "mountOptions", problem, allowed: allowed(kind) };
        let total: usize = flags.iter().map(String::len).sum();
        if total > LONGEST {
            return Err(refuse(format!("{total} bytes are too long")));
        }
        let known = |name: &str| table(kind).find(|(known, _)| *known == name).map(|(_, value)| value);
        let mut words = BTreeMap::new();
        for word in flags.iter().flat_map(|flag| split(flag)) {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            if !known(name).is_some_and(|pattern| pattern.accepts(value)) {
                return Err(refuse(format!("{} is not allowed for {kind}", quote(word))));
            }
            let word = if name == "context" { quoted_context(word) } else { word.to_owned() };
            if let Some(other) = words.insert(about(name, |name| known(name).is_some()), word.clone())
                && other != word
            {
                return Err(refuse(format!("{} contradicts {}", quote(&word), quote(&other))));
            }
        }
        words.retain(|_, word| !DEFAULTS.contains(&word.as_str()));
        Ok(Self { words })
    }

    /// The same options for a volume whose class sets when unused space is discarded.
    ///
    /// An option of the user about discards stays as it is. Without one, `online` adds the option that discards, and
    /// `none` removes the discards that btrfs does by default, since Linux 6.2.
    ///
    /// # Errors
    /// `nodiscard` with `online`: they contradict each other.
    pub fn with_discard(mut self, kind: Filesystem, discard: Option<Discard>) -> Result<Self, OptionError> {
        let word = match (discard, kind) {
            (Some(Discard::Online), Filesystem::Ext4 | Filesystem::Xfs) => "discard",
            // Without `async`, the kernel decides by its version, and old ones discard in every commit.
            (Some(Discard::Online), Filesystem::Btrfs) => "discard=async",
            (Some(Discard::None), Filesystem::Btrfs) => NODISCARD,
            _ => return Ok(self),
        };
        let own = self.words.entry("discard".to_owned()).or_insert_with(|| word.to_owned());
        if discard == Some(Discard::Online) && own == NODISCARD {
            let problem = format!("{} contradicts the StorageClass parameter \"discard: online\"", quote(own));
            return Err(OptionError { place: "mountOptions", problem, allowed: allowed(kind) });
        }
        Ok(self)
    }

    /// The same options for a filesystem whose UUID another one on this host has, which may be mounted, too.
    #[must_use]
    pub fn sharing_uuid(mut self, kind: Filesystem) -> Self {
        match kind {
            Filesystem::Xfs => {
                self.words.insert("uuid".to_owned(), "nouuid".to_owned());
            }
            // An ext4 ignores others. Two btrfs with one UUID never exist on a host.
            Filesystem::Ext4 | Filesystem::Btrfs => {}
        }
        self
    }

    /// The SELinux context in CSI's `mount_flags`, without its quotes. The other flags are not checked.
    #[must_use]
    pub fn context(flags: &[String]) -> Option<&str> {
        let mut words = flags.iter().flat_map(|flag| split(flag));
        words.find_map(|word| word.strip_prefix("context=")).map(|context| context.trim_matches('"'))
    }

    /// The options as words for mount, sorted by subject.
    #[must_use]
    pub fn to_words(&self) -> Vec<String> {
        self.words.values().cloned().collect()
    }

    /// Whether the options request a read-only mount.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.words.values().any(|word| word == "ro")
    }
}

fn table(kind: Filesystem) -> impl Iterator<Item = (&'static str, Value)> {
    tables::MOUNT_ANY.iter().chain(tables::of(kind).mount).copied()
}

/// The subject of an option, so that `atime` is recognized to contradict `noatime`.
fn about(name: &str, known: impl Fn(&str) -> bool) -> String {
    match name {
        "ro" | "rw" => "ro".to_owned(),
        "sync" | "async" => "sync".to_owned(),
        "strictatime" | "relatime" | "noatime" | "atime" => "atime".to_owned(),
        name => match name.strip_prefix("no") {
            Some(positive) if known(positive) => positive.to_owned(),
            _ => name.to_owned(),
        },
    }
}

/// The kernel accepts a context with commas only in quotes; quotes never hurt.
fn quoted_context(word: &str) -> String {
    let bare = word.trim_start_matches("context=").trim_matches('"');
    format!("context=\"{bare}\"")
}

/// Splits at commas outside of double quotes; drops empty parts.
fn split(flag: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    flag.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|word| !word.is_empty())
}

/// The allow-list, as text.
fn allowed(kind: Filesystem) -> String {
    let words: Vec<String> = table(kind).map(|(name, value)| format!("{name}{}", value.describe())).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(kind: Filesystem, flags: &[&str]) -> Result<MountOptions, OptionError> {
        MountOptions::parse(kind, &flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>())
    }

    fn words(kind: Filesystem, flags: &[&str]) -> Vec<String> {
        parse(kind, flags).unwrap().to_words()
    }

    #[test]
    fn permitted_options_are_accepted() {
        assert_eq!(
            words(Filesystem::Ext4, &["noatime,data=writeback", "commit=30"]),
            ["noatime", "commit=30", "data=writeback"]
        );
        assert_eq!(words(Filesystem::Xfs, &["logbsize=256k", "discard", "", ","]), ["discard", "logbsize=256k"]);
        assert_eq!(words(Filesystem::Btrfs, &["compress=zstd:3,discard=async"]), ["compress=zstd:3", "discard=async"]);
        for kind in Filesystem::ALL {
            assert_eq!(words(kind, &[]), [""; 0]);
            assert!(parse(kind, &["ro,nosuid"]).unwrap().read_only());
        }
    }

    #[test]
    fn only_an_xfs_has_to_know_that_another_one_has_its_uuid() {
        let words = |kind| parse(kind, &["noatime"]).unwrap().sharing_uuid(kind).to_words();
        assert_eq!(words(Filesystem::Xfs), ["noatime", "nouuid"]);
        assert_eq!(words(Filesystem::Ext4), ["noatime"]);
    }

    #[test]
    fn the_context_is_found_among_other_flags() {
        let context = |flags: &[&str]| {
            let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
            MountOptions::context(&flags).map(str::to_owned)
        };
        assert_eq!(context(&["noatime", "ro,context=\"a:b:c:s0:c1,c2\",bad"]).as_deref(), Some("a:b:c:s0:c1,c2"));
        assert_eq!(context(&["context=a:b:c:s0"]).as_deref(), Some("a:b:c:s0"));
        assert_eq!(context(&["noatime", "fscontext=a"]), None);
    }

    #[test]
    fn every_listed_option_is_accepted_and_has_one_meaning() {
        for kind in Filesystem::ALL {
            let mut seen = std::collections::BTreeSet::new();
            for (name, value) in table(kind) {
                assert!(seen.insert(name), "{name} is listed twice for {kind}");
                let word = match value {
                    Value::OneOf(words) => format!("{name}={}", words[0]),
                    Value::Number => format!("{name}=1"),
                    Value::Context => format!("{name}=\"a:b:c:s0:c1,c2\""),
                    _ => name.to_owned(),
                };
                parse(kind, &[&word]).unwrap();
            }
        }
    }

    #[test]
    fn the_order_and_the_spelling_do_not_matter() {
        let kind = Filesystem::Ext4;
        assert_eq!(parse(kind, &["noatime,nodev"]), parse(kind, &["nodev", "noatime", "rw", "defaults", "nodev"]));
        assert_ne!(parse(kind, &["noatime"]), parse(kind, &["noatime,nodev"]));
        assert_eq!(parse(kind, &["context=a:b:c:s0"]), parse(kind, &["context=\"a:b:c:s0\""]));
    }

    #[test]
    fn a_context_keeps_its_commas() {
        let word = "context=\"system_u:object_r:container_file_t:s0:c15,c26\"";
        assert_eq!(words(Filesystem::Xfs, &[&format!("{word},noatime")]), ["noatime", word]);
    }

    #[test]
    fn contradictions_are_rejected() {
        for flags in ["ro,rw", "atime,noatime", "noatime,strictatime", "dev,nodev", "commit=1,commit=2", "sync,async"] {
            let error = parse(Filesystem::Ext4, &[flags]).unwrap_err();
            assert!(error.to_string().contains("contradicts"), "{flags}: {error}");
        }
    }

    #[test]
    fn the_class_sets_the_option_that_discards() {
        let with = |kind, flags: &[&str], discard| parse(kind, flags).unwrap().with_discard(kind, discard);
        let words = |kind, flags: &[&str], discard| with(kind, flags, discard).unwrap().to_words();
        let (online, none) = (Some(Discard::Online), Some(Discard::None));
        for kind in [Filesystem::Ext4, Filesystem::Xfs] {
            assert_eq!(words(kind, &["noatime"], online), ["noatime", "discard"]);
            assert_eq!(words(kind, &[], none), [""; 0]);
        }
        assert_eq!(words(Filesystem::Btrfs, &[], online), ["discard=async"]);
        assert_eq!(words(Filesystem::Btrfs, &[], none), ["nodiscard"]);
        // What the user sets stays.
        assert_eq!(words(Filesystem::Btrfs, &["discard=sync"], online), ["discard=sync"]);
        for kind in Filesystem::ALL {
            for discard in [None, Some(Discard::Periodic)] {
                assert_eq!(words(kind, &[], discard), [""; 0]);
            }
            for discard in [None, Some(Discard::Periodic), none] {
                assert_eq!(words(kind, &["discard"], discard), ["discard"]);
                assert_eq!(words(kind, &["nodiscard"], discard), ["nodiscard"]);
            }
            let error = with(kind, &["nodiscard"], online).unwrap_err().to_string();
            assert!(error.starts_with("mountOptions: \"nodiscard\" contradicts"), "{error}");
        }
    }

    #[test]
    fn options_that_reach_beyond_the_volume_are_rejected() {
        let common = [
            "bind",
            "rbind",
            "remount",
            "move",
            "loop",
            "loop=/dev/loop0",
            "_netdev",
            "user",
            "uid=0",
            "x-systemd.automount",
            "norecovery",
            "shared",
            "rprivate",
            "fscontext=\"a:b:c:s0\"",
            "rootcontext=a",
            "defcontext=a",
            "NOATIME",
            "ro=1",
            "noatime=1",
            "atime =1",
            " noatime",
            "noatime ",
            "noatime\n",
            "noatime\0",
            "noatime;ro",
            "-o",
            "-Z y",
            "'ro'",
            "\"ro\"",
            "\"",
            "=",
            "=ro",
            "context=",
            "context=\"a,ro",
            "context=a b",
            "context=\"a:b\"x",
            "commit=",
            "commit=-1",
            "ro\u{a0}",
        ];
        for kind in Filesystem::ALL {
            for flag in common.iter().chain(tables::of(kind).refused.mount) {
                let error = parse(kind, &[flag]).expect_err(flag);
                assert!(
                    error.to_string().starts_with("mountOptions: ") && error.to_string().contains("allowed: defaults")
                );
            }
            assert!(parse(kind, &[&"noatime,".repeat(1300)]).is_err());
            assert!(parse(kind, &[&"x".repeat(10_000)]).unwrap_err().to_string().len() < 4000);
        }
    }

    proptest! {
        #[test]
        fn an_accepted_option_is_exactly_one_option(
            flags in proptest::collection::vec("[a-z0-9=,\":./ -]{0,24}|context=\"?[a-z:,]{1,9}\"?|ro|noatime,discard", 0..4),
        ) {
            for kind in Filesystem::ALL {
                let Ok(options) = MountOptions::parse(kind, &flags) else { continue };
                for word in options.to_words() {
                    let context = word.starts_with("context=\"") && word.ends_with('"') && word.matches('"').count() == 2;
                    prop_assert!(context || !word.contains([',', '"', '/', ' ', '\\']), "{word:?}");
                }
                // Accepted options are accepted again unchanged.
                prop_assert_eq!(MountOptions::parse(kind, &options.to_words()), Ok(options));
            }
        }
    }
}
