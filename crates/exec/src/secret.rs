//! Secrets for programs.

use std::fmt;
use std::io::{self, PipeReader, Write as _};
use std::sync::Arc;

use zeroize::Zeroizing;

/// A secret, such as a passphrase. All clones share the same bytes, which are overwritten when the last one is dropped.
///
/// Its content is never shown as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// The longest secret, in bytes. It fits into a pipe, so that passing it to a program never blocks.
    pub const MAX: usize = 4096;

    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is UTF-8 without a NUL.
    #[must_use]
    pub fn is_text(&self) -> bool {
        std::str::from_utf8(&self.0).is_ok() && !self.0.contains(&0)
    }

    /// A pipe from which the secret can be read once. The secret is in no file, and in no memory but the kernel's.
    pub(crate) fn pipe(&self) -> io::Result<PipeReader> {
        if self.len() > Self::MAX {
            let error = format!("the secret has {} bytes, and at most {} are possible", self.len(), Self::MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(&self.0)?;
        Ok(reader)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "Secret(..) Some(Secret(..))");
        assert_eq!((secret.len(), secret.is_empty()), (7, false));
        assert!(secret.is_text());
        for bytes in [b"a\0".to_vec(), vec![0xff, 0xfe]] {
            assert!(!Secret::new(bytes).is_text());
        }
    }

    #[test]
    fn the_longest_secret_fits_into_a_pipe() {
        let mut read = Vec::new();
        Secret::new(vec![7; Secret::MAX]).pipe().unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, vec![7; Secret::MAX]);
        let error = Secret::new(vec![7; Secret::MAX + 1]).pipe().unwrap_err();
        assert!(error.to_string().contains("4097 bytes"), "{error}");
    }
}
