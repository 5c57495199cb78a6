//! The licences named in a package's copyright file.

use std::collections::BTreeSet;

/// The short names, sorted, if the file is in Debian's machine-readable format; otherwise none: a guess would
/// be worse.
pub(super) fn of(copyright: &str) -> Vec<String> {
    if !copyright.lines().take(5).any(|line| line.starts_with("Format:")) {
        return Vec::new();
    }
    let lines = copyright.lines().filter_map(|line| line.strip_prefix("License:"));
    let names: BTreeSet<_> = lines.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_once_each() {
        let text =
            "Format: https://…\nFiles: *\nLicense: GPL-2\n\nFiles: x\nLicense: BSD-3-Clause\n\nLicense: GPL-2\n Text";
        assert_eq!(of(text), ["BSD-3-Clause", "GPL-2"]);
    }

    #[test]
    fn prose_gives_no_licence() {
        assert!(of("This program is free software. License: see below").is_empty());
    }
}
