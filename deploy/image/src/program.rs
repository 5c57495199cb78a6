//! The released program: how it is built, and the crates in it.
//!
//! It is linked statically. So it runs with any C library on the machine that builds it; all tests in virtual
//! nodes run the same kind of program; and the two layers of the image can be updated separately. The price:
//! a fix in glibc requires a new build, so the bill of materials names the glibc that is linked.
#![allow(clippy::disallowed_types)] // cargo is not what Quarry runs in production; see crate::command.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::Architecture;
use crate::command::{command, drain, run, stream};

/// A crate in the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) licence: String,
    /// Whether it belongs to this workspace rather than crates.io.
    pub(crate) own: bool,
}

/// Builds the release program without the paths of this machine.
pub(crate) fn build(architecture: Architecture) -> Result<PathBuf> {
    let (workspace, target) = (workspace()?, architecture.target());
    let outputs = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let outputs = std::path::absolute(outputs.join("image")).context("the current folder is not known")?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("cargo's folder is not known: set CARGO_HOME or HOME")?;
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    flags.extend(renamed(&workspace, &outputs, &home));
    flags.push(standard_library()?);
    let arguments = ["build", "--locked", "--release", "--target", target, "--package", "quarry", "--bin", "quarry"];
    let mut cargo = cargo(&arguments, &workspace);
    // A separate folder: different flags would make cargo rebuild everything each time.
    cargo.env("CARGO_TARGET_DIR", &outputs);
    // Unlike RUSTFLAGS, it allows spaces in paths. It has precedence.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
    if architecture != Architecture::of_this_host() && std::env::var_os(&linker).is_none() {
        cargo.env(linker, format!("{}-gcc", architecture.triplet()));
    }
    stream(&mut cargo, drain).context("cannot build quarry")?;
    Ok(outputs.join(target).join("release/quarry"))
}

/// The flags that give cargo's folders the same names on every machine. Of several that match, rustc applies the last.
fn renamed(workspace: &Path, outputs: &Path, home: &Path) -> Vec<String> {
    let rename = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let mut flags = vec![rename(workspace, "/quarry"), rename(outputs, "/quarry/target/image"), rename(home, "/cargo")];
    // The crates of a mirror of crates.io have a folder with another name. It is there already, because the
    // dependencies of this crate come from it.
    let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    flags.extend(registries.map(|registry| rename(&registry.path(), "/cargo/registry/src")));
    flags
}

/// The flag that gives the standard library's sources the name that they have where rustc was built. If the component
/// rust-src is installed, generic functions of the standard library contain its path instead.
fn standard_library() -> Result<String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = run(&mut command(&rustc, &["--version", "--verbose"]))?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let commit = commit.with_context(|| format!("{rustc} does not print its commit:\n{version}"))?;
    let root = run(&mut command(&rustc, &["--print", "sysroot"]))?;
    Ok(format!("--remap-path-prefix={}/lib/rustlib/src/rust=/rustc/{commit}", root.trim_end()))
}

/// The crates that are linked into the program, not those that only build it.
pub(crate) fn crates(architecture: Architecture) -> Result<Vec<Crate>> {
    let arguments = [
        &["tree", "--locked", "--offline", "--package", "quarry", "--target", architecture.target()][..],
        &["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}\t{l}"],
    ];
    let listed = run(&mut cargo(&arguments.concat(), &workspace()?)).context("cannot list quarry's crates")?;
    let mut crates = listed.lines().map(parse).collect::<Result<Vec<_>>>()?;
    crates.sort_by(|one, other| (&one.name, &one.version).cmp(&(&other.name, &other.version)));
    crates.dedup();
    Ok(crates)
}

/// Parses a line of cargo tree: name, version, perhaps a folder in parentheses, a tab, the licence, perhaps a
/// repetition mark.
fn parse(line: &str) -> Result<Crate> {
    let parts = line.trim_end_matches(" (*)").split_once('\t');
    let (package, licence) = parts.with_context(|| format!("cargo listed no licence in: {line}"))?;
    let mut words = package.split(' ');
    let (Some(name), Some(version)) = (words.next(), words.next().and_then(|word| word.strip_prefix('v'))) else {
        anyhow::bail!("cargo listed no name and version in: {line}");
    };
    Ok(Crate {
        name: name.to_owned(),
        version: version.to_owned(),
        // The separator of licences before SPDX expressions.
        licence: licence.replace('/', " OR "),
        own: package.contains(" (/"),
    })
}

/// The version of the C library that programs on this host are linked with, if dpkg knows it.
pub(crate) fn c_library(architecture: Architecture) -> Option<String> {
    let package = if architecture == Architecture::of_this_host() {
        "libc6-dev".to_owned()
    } else {
        format!("libc6-dev-{}-cross", architecture.name())
    };
    run(&mut command("dpkg-query", &["--show", "--showformat=${Version}", &package])).ok()
}

fn cargo(arguments: &[&str], workspace: &Path) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut cargo = command(&program, arguments);
    cargo.current_dir(workspace);
    cargo
}

fn workspace() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folder.canonicalize().with_context(|| format!("the sources are no longer at {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_folder_keeps_its_name() {
        let home = tempfile::tempdir().unwrap();
        let registry = home.path().join("registry/src/mirror.example.com-0123");
        std::fs::create_dir_all(&registry).unwrap();
        let flags = renamed(Path::new("/home/me/quarry"), Path::new("/var/built/image"), home.path());
        let expected = [
            "--remap-path-prefix=/home/me/quarry=/quarry".to_owned(),
            "--remap-path-prefix=/var/built/image=/quarry/target/image".to_owned(),
            format!("--remap-path-prefix={}=/cargo", home.path().display()),
            format!("--remap-path-prefix={}=/cargo/registry/src", registry.display()),
        ];
        assert_eq!(flags, expected);
        let flag = standard_library().unwrap();
        let (from, to) = flag.split_once("=/rustc/").unwrap();
        assert!(from.ends_with("/lib/rustlib/src/rust") && to.len() == 40, "{flag}");
    }

    #[test]
    fn lines_of_cargo_tree_are_parsed() {
        let found = parse("tokio v1.48.0\tMIT (*)").unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str(), found.licence.as_str()), ("tokio", "1.48.0", "MIT"));
        assert!(!found.own);
        let found = parse("quarry-lvm v0.1.0 (/home/me/quarry/crates/lvm)\tApache-2.0").unwrap();
        assert!(found.own && found.version == "0.1.0" && found.licence == "Apache-2.0");
        assert_eq!(parse("old v0.1.0\tMIT/Apache-2.0").unwrap().licence, "MIT OR Apache-2.0");
        assert!(parse("nonsense").is_err());
    }
}
