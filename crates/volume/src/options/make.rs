//! `mkfsOptions` of a StorageClass, checked against the allow-list.

use super::OptionError;
use super::tables::{self, Flag, Takes};
use super::value::{LONGEST, Value, quote};
use crate::Filesystem;

/// Permitted options for mkfs: they name no device and no path, force nothing, and set no UUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeOptions {
    kind: Filesystem,
    /// Each flag once, in the given order.
    args: Vec<Arg>,
}

/// A flag with all its values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Arg {
    flag: &'static str,
    /// Its values; several are joined by commas.
    values: Vec<String>,
}

impl MakeOptions {
    /// No options: the defaults of mkfs and of the running kernel.
    #[must_use]
    pub fn none(kind: Filesystem) -> Self {
        Self { kind, args: Vec::new() }
    }

    /// Parses options as on the command line of `mkfs.ext4`: words separated by white space, `-b 4096` as
    /// well as `-b4096`. There is no quoting.
    ///
    /// # Errors
    /// Any option that is not on the allow-list of that filesystem; the error lists the permitted ones.
    pub fn parse(kind: Filesystem, text: &str) -> Result<Self, OptionError> {
        let refuse = |problem: String| OptionError { place: "mkfsOptions", problem, allowed: allowed(kind) };
        if text.len() > LONGEST {
            return Err(refuse(format!("{} bytes are too long", text.len())));
        }
        let mut options = Self::none(kind);
        // ASCII white space only: any other white space is part of a word, and rejected with it.
        let mut words = text.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let (flag, attached) =
                split(kind, word).ok_or_else(|| refuse(format!("{} is not allowed for {kind}", quote(word))))?;
            let takes_nothing = matches!(flag.takes, Takes::One(Value::Nothing));
            let value = match attached {
                // `-Kf` would be two flags in one word.
                Some(_) if takes_nothing => {
                    return Err(refuse(format!("{} takes no value: {}", flag.name, quote(word))));
                }
                None if takes_nothing => "",
                Some(value) => value,
                None => words.next().ok_or_else(|| refuse(format!("{} lacks its value", flag.name)))?,
            };
            options.add(flag, value).map_err(refuse)?;
        }
        Ok(options)
    }

    /// The filesystem of these options.
    #[must_use]
    pub fn kind(&self) -> Filesystem {
        self.kind
    }

    /// The arguments for mkfs. Each flag occurs once: mke2fs uses only the last `-E` and the last `-O`.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let mut args = Vec::new();
        for arg in &self.args {
            args.push(arg.flag.to_owned());
            if !arg.values.is_empty() {
                args.push(arg.values.join(","));
            }
        }
        args
    }

    /// Adds `value` to the flag, unless the operator set the same key or feature.
    pub fn add_default(&mut self, flag: &'static str, value: &str) {
        match self.args.iter_mut().find(|arg| arg.flag == flag) {
            Some(arg) if arg.values.iter().any(|given| key(given) == key(value)) => {}
            Some(arg) => arg.values.push(value.to_owned()),
            None => self.args.push(Arg { flag, values: vec![value.to_owned()] }),
        }
    }

    /// Adds a flag without a value, unless it is already set.
    pub fn add_switch(&mut self, flag: &'static str) {
        if !self.args.iter().any(|arg| arg.flag == flag) {
            self.args.push(Arg { flag, values: Vec::new() });
        }
    }

    /// Whether the operator set that key with that flag.
    #[must_use]
    pub fn mentions(&self, flag: &str, asked: &str) -> bool {
        self.args.iter().any(|arg| arg.flag == flag && arg.values.iter().any(|given| key(given) == asked))
    }

    /// Whether the operator turned that feature off (`^NAME`).
    #[must_use]
    pub fn turns_off(&self, flag: &str, feature: &str) -> bool {
        let off = |given: &String| given.strip_prefix('^') == Some(feature);
        self.args.iter().any(|arg| arg.flag == flag && arg.values.iter().any(off))
    }

    fn add(&mut self, flag: &Flag, value: &str) -> Result<(), String> {
        let allowed = |item: &str| match flag.takes {
            Takes::One(pattern) => pattern.accepts((!item.is_empty()).then_some(item)),
            Takes::Keys(keys) => {
                let (name, given) = item.split_once('=').map_or((item, None), |(name, given)| (name, Some(given)));
                keys.iter().any(|(known, pattern)| *known == name && pattern.accepts(given))
            }
            Takes::Features(features) => features.contains(&item.strip_prefix('^').unwrap_or(item)),
        };
        let single = matches!(flag.takes, Takes::One(_));
        let items: Vec<&str> = if single { vec![value] } else { value.split(',').collect() };
        if let Some(item) = items.iter().find(|item| !allowed(item)) {
            return Err(format!("{} {} is not allowed for {}", flag.name, quote(item), self.kind));
        }
        let index = match self.args.iter().position(|arg| arg.flag == flag.name) {
            Some(_) if single => return Err(format!("{} is given twice", flag.name)),
            Some(index) => index,
            None => {
                self.args.push(Arg { flag: flag.name, values: Vec::new() });
                self.args.len() - 1
            }
        };
        let Some(arg) = self.args.get_mut(index) else { return Ok(()) };
        for item in items.into_iter().filter(|item| !item.is_empty()) {
            if arg.values.iter().any(|given| key(given) == key(item)) {
                return Err(format!("{} {} is given twice", flag.name, quote(key(item))));
            }
            arg.values.push(item.to_owned());
        }
        Ok(())
    }
}

/// The subject of a value: the name before `=`, without the `^` that turns a feature off.
fn key(value: &str) -> &str {
    let name = value.split_once('=').map_or(value, |(name, _)| name);
    name.strip_prefix('^').unwrap_or(name)
}

/// Finds the flag that a word is, or begins with, and the attached value.
fn split(kind: Filesystem, word: &str) -> Option<(&'static Flag, Option<&str>)> {
    let flags = tables::of(kind).mkfs;
    if word.starts_with("--") {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        return Some((flags.iter().find(|flag| flag.name == name)?, value));
    }
    flags
        .iter()
        .filter(|flag| flag.name.len() == 2)
        .find_map(|flag| Some((flag, word.strip_prefix(flag.name)?)))
        .map(|(flag, attached)| (flag, (!attached.is_empty()).then_some(attached)))
}

/// The allow-list, as text.
fn allowed(kind: Filesystem) -> String {
    let flags: Vec<String> = tables::of(kind)
        .mkfs
        .iter()
        .map(|flag| match flag.takes {
            Takes::One(Value::Nothing) => flag.name.to_owned(),
            Takes::One(value) => format!("{} {}", flag.name, value.describe().trim_start_matches('=')),
            Takes::Keys(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}{}", value.describe())).collect();
                format!("{} {}", flag.name, keys.join(","))
            }
            Takes::Features(features) => format!("{} [^]{}", flag.name, features.join(",[^]")),
        })
        .collect();
    flags.join("; ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args(kind: Filesystem, text: &str) -> String {
        MakeOptions::parse(kind, text).unwrap_or_else(|error| panic!("{text}: {error}")).to_args().join(" ")
    }

    #[test]
    fn a_feature_that_is_off_is_recognized() {
        let options = MakeOptions::parse(Filesystem::Ext4, "-O quota,^metadata_csum").unwrap();
        assert!(options.turns_off("-O", "metadata_csum") && options.mentions("-O", "metadata_csum"));
        for feature in ["quota", "metadata_csum_seed", "^metadata_csum"] {
            assert!(!options.turns_off("-O", feature), "{feature}");
        }
    }

    #[test]
    fn permitted_options_are_accepted() {
        for kind in Filesystem::ALL {
            assert_eq!(args(kind, " \n\t "), "");
        }
        assert_eq!(args(Filesystem::Ext4, "-b4096 -m 0.5"), "-b 4096 -m 0.5");
        assert_eq!(
            args(Filesystem::Ext4, "-E stride=16,stripe_width=32 -E lazy_itable_init=0"),
            "-E stride=16,stripe_width=32,lazy_itable_init=0"
        );
        assert_eq!(args(Filesystem::Ext4, "-O ^metadata_csum,quota -Oproject"), "-O ^metadata_csum,quota,project");
        assert_eq!(args(Filesystem::Xfs, "-mcrc=1 -d su=64k,sw=4 -i size=512"), "-m crc=1 -d su=64k,sw=4 -i size=512");
        assert_eq!(args(Filesystem::Xfs, "-K -l size=64m,internal"), "-K -l size=64m,internal");
        assert_eq!(args(Filesystem::Btrfs, "--csum sha256 -d dup -n16k"), "--csum sha256 -d dup -n 16k");
        assert_eq!(args(Filesystem::Btrfs, "--csum=blake2"), "--csum blake2");
    }

    #[test]
    fn every_listed_flag_is_accepted_in_both_spellings() {
        let example = |value: Value| match value {
            Value::OneOf(words) => words[0].to_owned(),
            Value::Label(_) => "data".to_owned(),
            Value::Nothing | Value::MaybeNumber | Value::MaybeOneOf(_) => String::new(),
            _ => "1".to_owned(),
        };
        for kind in Filesystem::ALL {
            for flag in tables::of(kind).mkfs {
                let values = match flag.takes {
                    Takes::One(value) => vec![example(value)],
                    Takes::Keys(keys) => keys
                        .iter()
                        .map(|(name, value)| format!("{name}={}", example(*value)).trim_end_matches('=').to_owned())
                        .collect(),
                    Takes::Features(features) => features.iter().map(|name| format!("^{name}")).collect(),
                };
                let attach = if flag.name.len() == 2 { "" } else { "=" };
                for value in values {
                    let attached =
                        if value.is_empty() { flag.name.to_owned() } else { format!("{}{attach}{value}", flag.name) };
                    assert_eq!(args(kind, &attached), args(kind, &format!("{} {value}", flag.name)));
                }
            }
        }
    }

    #[test]
    fn options_that_reach_beyond_the_volume_are_rejected() {
        let common = [
            "/dev/sda",
            "4096",
            "-",
            "--",
            "-f",
            "-F",
            "-Z y",
            "-U 11111111-2222-3333-4444-555555555555",
            "-Urandom",
            "-V",
            "-h",
            "-b",
            "-b ",
            "-b -1",
            "-b /dev/sda",
            "-b 4096 /dev/sda",
            "-b '4096'",
            "-b \"4096\"",
            "-b 40\096",
            "-b 4096;",
            "-b $(id)",
            "\0",
            "-b\u{a0}4096",
            "-q",
            "-n",
            "-N",
            "--force",
            "--help",
            "-L",
            "-L -f",
            "-L a/b",
            "-L \"a",
            "-@file",
            "@file",
            "-é",
        ];
        for kind in Filesystem::ALL {
            for text in common.iter().chain(tables::of(kind).refused.mkfs) {
                let error = MakeOptions::parse(kind, text).expect_err(text).to_string();
                assert!(error.starts_with("mkfsOptions: ") && error.contains("; allowed: -"), "{text:?}: {error}");
                assert!(!error.contains('\n') && !error.contains('\0'));
            }
            let long = "x".repeat(10_000);
            assert!(MakeOptions::parse(kind, &long).unwrap_err().to_string().len() < 3000);
            assert!(MakeOptions::parse(kind, &"-K ".repeat(5_000)).is_err());
        }
        let error = MakeOptions::parse(Filesystem::Ext4, "-F").unwrap_err().to_string();
        assert!(error.starts_with("mkfsOptions: \"-F\" is not allowed for ext4; allowed: -b N; "), "{error}");
    }

    proptest! {
        #[test]
        fn accepted_options_are_listed_flags_with_harmless_values(
            text in "(-?-?[a-zA-Z]{0,3}[ =]?[a-z0-9=,^./\"' -]{0,14} ?){0,4}|-[bCEJOKdlmLn] ?[a-z0-9=,^/-]{0,12}|\\PC{0,40}",
        ) {
            for kind in Filesystem::ALL {
                let Ok(options) = MakeOptions::parse(kind, &text) else { continue };
                for arg in &options.args {
                    prop_assert!(tables::of(kind).mkfs.iter().any(|flag| flag.name == arg.flag));
                    for value in &arg.values {
                        prop_assert!(!value.is_empty() && !value.starts_with('-'));
                        prop_assert!(value.bytes().all(|b| b.is_ascii_alphanumeric() || b"=^._-".contains(&b)), "{:?}", value);
                        prop_assert!(!["device", "logdev", "rtdev", "name", "file", "uuid"].contains(&key(value)));
                    }
                }
                // Accepted options are accepted again unchanged.
                let again = options.to_args().join(" ");
                prop_assert_eq!(MakeOptions::parse(kind, &again), Ok(options));
            }
        }
    }
}
