//! Common to mkfs options and mount options: patterns for values, and the error.

/// A rejected option. Nothing was run or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}; allowed: {allowed}")]
pub struct OptionError {
    /// The source of the option: `mkfsOptions` or `mountOptions`.
    pub place: &'static str,
    /// The problem with the option.
    pub problem: String,
    /// The permitted options.
    pub allowed: String,
}

/// The maximum length of options, in bytes: more is a mistake or an attack.
pub(crate) const LONGEST: usize = 2048;

/// A pattern for the value of an option. Accepted values consist of letters, digits and a few signs: never a
/// space, a quote, a slash or a control character.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// No value.
    Nothing,
    /// Decimal digits, with an optional fraction and an optional unit of one letter.
    Number,
    /// No value, or a number.
    MaybeNumber,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// No value, or one of these.
    MaybeOneOf(&'static [&'static str]),
    /// No value, or a compression, optionally followed by `:` and a level.
    MaybeCompression,
    /// A filesystem label with at most this many bytes.
    Label(usize),
    /// An SELinux context, optionally in double quotes.
    Context,
}

const COMPRESSIONS: &[&str] = &["no", "none", "zlib", "lzo", "zstd"];

impl Value {
    pub(crate) fn accepts(self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return matches!(self, Self::Nothing | Self::MaybeNumber | Self::MaybeOneOf(_) | Self::MaybeCompression);
        };
        match self {
            Self::Nothing => false,
            Self::Number | Self::MaybeNumber => is_number(value),
            Self::OneOf(words) | Self::MaybeOneOf(words) => words.contains(&value),
            Self::MaybeCompression => {
                let (name, level) = value.split_once(':').map_or((value, None), |(name, level)| (name, Some(level)));
                COMPRESSIONS.contains(&name) && level.is_none_or(is_level)
            }
            Self::Label(longest) => {
                (1..=longest).contains(&value.len())
                    && !value.starts_with('-')
                    && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
            }
            Self::Context => {
                let bare = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
                !bare.is_empty()
                    && bare
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b':' | b','))
            }
        }
    }

    /// Describes the permitted values, for error messages.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Number => "=N".to_owned(),
            Self::MaybeNumber => "[=N]".to_owned(),
            Self::OneOf(words) => format!("={}", words.join("|")),
            Self::MaybeOneOf(words) => format!("[={}]", words.join("|")),
            Self::MaybeCompression => format!("[={}[:LEVEL]]", COMPRESSIONS.join("|")),
            Self::Label(_) => "=LABEL".to_owned(),
            Self::Context => "=\"CONTEXT\"".to_owned(),
        }
    }
}

fn is_number(value: &str) -> bool {
    let digits = value.strip_suffix(|c: char| c.is_ascii_alphabetic()).unwrap_or(value);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| (1..=20).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    all_digits(whole) && all_digits(fraction)
}

fn is_level(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Quotes a value for an error message: short, and with nothing that could be mistaken for something else.
pub(crate) fn quote(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return format!("{text:?}");
    }
    format!("{:?}… ({} bytes)", text.chars().take(MOST).collect::<String>(), text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers() {
        for good in ["0", "4096", "64k", "1.5", "0.5", "10G", "8b"] {
            assert!(is_number(good), "{good}");
        }
        for bad in ["", "k", "-1", "+1", "1,2", "1 ", "0x10", "1kk", ".5", "1.", "1.2.3", "٣", "123456789012345678901"]
        {
            assert!(!is_number(bad), "{bad:?}");
        }
    }

    #[test]
    fn contexts_and_labels() {
        for good in ["\"system_u:object_r:container_file_t:s0:c1,c2\"", "system_u:object_r:container_file_t:s0"] {
            assert!(Value::Context.accepts(Some(good)), "{good}");
        }
        for bad in ["", "\"\"", "\"a", "a\"", "a b", "a\nb", "a\"b", "a=b", "a/b"] {
            assert!(!Value::Context.accepts(Some(bad)), "{bad:?}");
        }
        assert!(Value::Label(12).accepts(Some("data-1_x.y")));
        for bad in ["", "-Z", "a b", "/dev/sda", "0123456789abc", "é"] {
            assert!(!Value::Label(12).accepts(Some(bad)), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_accepted_can_start_an_option_or_name_a_path(text in "\\PC{0,30}|[ -~]{0,30}|[a-z0-9:.\"-]{0,12}") {
            for value in [Value::Number, Value::MaybeCompression, Value::Label(255), Value::Context, Value::OneOf(&["a"])] {
                if value.accepts(Some(&text)) {
                    prop_assert!(!text.contains(['/', ' ', '\n', '\0', '\'', '=', '\\', ';', '$']));
                    prop_assert!(matches!(value, Value::Context) || !text.starts_with('-'));
                    prop_assert!(matches!(value, Value::Context) || !text.contains(['"', ',']));
                }
            }
        }

        #[test]
        fn a_quote_is_short_and_plain(text in any::<String>()) {
            let quoted = quote(&text);
            prop_assert!(quoted.len() < 1200 && !quoted.contains('\n') && !quoted.contains('\0'));
        }
    }
}
