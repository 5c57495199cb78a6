//! One layer of an image: files by their paths, with reproducible bytes.
//!
//! It drops what varies between builds: the order of folders, times (all are the epoch), user names. It also
//! drops what a container runtime creates itself: device nodes, sockets, pipes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};

/// Extended attributes (capabilities of programs) in the headers of a tar archive.
const XATTR: &str = "SCHILY.xattr.";

/// Files by their paths in the image.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    mode: u32,
    uid: u64,
    gid: u64,
    xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Kind {
    Directory,
    /// The file's content, or the file of this host that it is read from when the layer is written.
    Bytes(Vec<u8>),
    Copy(PathBuf),
    Symlink(String),
    /// For a hard link: the path of its target in this layer.
    HardLink(String),
}

impl Entry {
    fn of_root(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, xattrs: Vec::new() }
    }
}

impl Layer {
    /// Adds a file of root with this content; `mode` is its permissions.
    #[must_use]
    pub fn bytes(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.entries.insert(clean(path), Entry::of_root(Kind::Bytes(content.into()), mode));
        self
    }

    /// Adds a file of root, copied from this host when the layer is written.
    #[must_use]
    pub fn file(mut self, path: &str, from: impl Into<PathBuf>, mode: u32) -> Self {
        self.entries.insert(clean(path), Entry::of_root(Kind::Copy(from.into()), mode));
        self
    }

    /// Adds an empty directory of root. Parent directories need no entry.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32) -> Self {
        self.entries.insert(clean(path), Entry::of_root(Kind::Directory, mode));
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.entries.insert(clean(path), Entry::of_root(Kind::Symlink(target.to_owned()), 0o777));
        self
    }

    /// Adds the content of a folder of this host, with its owners, or of a tar archive.
    ///
    /// # Errors
    /// A file cannot be read, or a name is not UTF-8.
    pub fn add_tree(&mut self, from: &Path) -> Result<()> {
        if from.is_dir() {
            return self.add_folder(from, "");
        }
        let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
        self.add_tar(file, |path| Some(path.to_owned()))
            .with_context(|| format!("cannot read {} as a tar archive", from.display()))
    }

    fn add_folder(&mut self, folder: &Path, inside: &str) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
        for entry in entries {
            let from = entry.with_context(|| format!("cannot read the folder {}", folder.display()))?.path();
            let name = from.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("the name of {} is not UTF-8", from.display()))?;
            let path = clean(&format!("{inside}/{name}"));
            let metadata = from.symlink_metadata().with_context(|| format!("cannot stat {}", from.display()))?;
            let kind = if metadata.is_dir() {
                self.add_folder(&from, &path)?;
                Kind::Directory
            } else if metadata.is_file() {
                Kind::Copy(from)
            } else if metadata.is_symlink() {
                let target =
                    fs::read_link(&from).with_context(|| format!("cannot read the link {}", from.display()))?;
                Kind::Symlink(utf8(target.into_os_string().into_encoded_bytes())?)
            } else {
                continue;
            };
            let (uid, gid) = (metadata.uid().into(), metadata.gid().into());
            self.entries.insert(path, Entry { kind, mode: metadata.mode() & 0o7777, uid, gid, xattrs: Vec::new() });
        }
        Ok(())
    }

    /// Adds a tar archive. `place` returns the path of an entry in the layer, or none to leave it out.
    ///
    /// # Errors
    /// The archive cannot be read, or a name in it is not UTF-8.
    pub fn add_tar(&mut self, archive: impl Read, place: impl Fn(&str) -> Option<String>) -> Result<()> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().context("cannot read the tar archive")? {
            let mut entry = entry.context("cannot read the tar archive's next entry")?;
            let path = clean(&utf8(entry.path_bytes().into_owned())?);
            let Some(to) = place(&path).filter(|to| !to.is_empty()) else { continue };
            let target = || -> Result<String> { utf8(entry.link_name_bytes().unwrap_or_default().into_owned()) };
            let kind = match entry.header().entry_type() {
                EntryType::Directory => Kind::Directory,
                EntryType::Symlink => Kind::Symlink(target()?),
                EntryType::Link => {
                    let target = target()?;
                    let target = place(&clean(&target))
                        .with_context(|| format!("{path} is a hard link to {target}, which is left out"))?;
                    Kind::HardLink(target)
                }
                EntryType::Regular | EntryType::Continuous => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).with_context(|| format!("cannot read {path}"))?;
                    Kind::Bytes(content)
                }
                _ => continue,
            };
            let mut xattrs = Vec::new();
            for extension in entry.pax_extensions().ok().flatten().into_iter().flatten() {
                let extension = extension.with_context(|| format!("cannot read the attributes of {path}"))?;
                if let Some(key) = extension.key().ok().filter(|key| key.starts_with(XATTR)) {
                    xattrs.push((key.to_owned(), extension.value_bytes().to_vec()));
                }
            }
            let header = entry.header();
            let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
            self.entries.insert(to, Entry { kind, mode, uid, gid, xattrs });
        }
        Ok(())
    }

    /// The content of a file. Symbolic links to a sibling directory are followed.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        let path = clean(path);
        match self.entries.get(&path).map(|entry| &entry.kind) {
            Some(Kind::Bytes(bytes)) => return Some(bytes),
            Some(Kind::HardLink(target)) => return self.content(target),
            _ => {}
        }
        let (folder, name) = path.rsplit_once('/')?;
        let Kind::Symlink(target) = &self.entries.get(folder)?.kind else { return None };
        let beside = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.content(&format!("{beside}/{target}/{name}"))
    }

    /// Keeps the files for which `keep` returns true, given path and content; directories and links stay.
    /// Files that are copied from this host stay too.
    pub fn retain(&mut self, keep: impl Fn(&str, &[u8]) -> bool) {
        self.entries.retain(|path, entry| !matches!(&entry.kind, Kind::Bytes(bytes) if !keep(path, bytes)));
        // Hard links to a removed file are removed too.
        let files: Vec<String> = self.entries.keys().cloned().collect();
        let gone = |target: &String| files.binary_search(target).is_err();
        self.entries.retain(|_, entry| !matches!(&entry.kind, Kind::HardLink(target) if gone(target)));
    }

    /// Writes the layer as a tar archive: sorted by path, every directory before its content, and hard links
    /// last because their targets must come first.
    ///
    /// # Errors
    /// A file of this host cannot be read, or the archive cannot be written.
    pub fn write(&self, to: impl Write) -> Result<()> {
        let mut entries = self.entries.clone();
        for path in self.entries.keys() {
            for (end, _) in path.match_indices('/') {
                let parent = path.get(..end).unwrap_or_default().to_owned();
                entries.entry(parent).or_insert_with(|| Entry::of_root(Kind::Directory, 0o755));
            }
        }
        let mut archive = tar::Builder::new(to);
        let is_link = |entry: &Entry| matches!(entry.kind, Kind::HardLink(_));
        for (path, entry) in entries.iter().filter(|(_, entry)| !is_link(entry)) {
            append(&mut archive, path, entry).with_context(|| format!("cannot add /{path} to the layer"))?;
        }
        for (path, entry) in entries.iter().filter(|(_, entry)| is_link(entry)) {
            append(&mut archive, path, entry).with_context(|| format!("cannot add /{path} to the layer"))?;
        }
        archive.finish().context("cannot finish the layer")
    }
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    if !entry.xattrs.is_empty() {
        archive.append_pax_extensions(entry.xattrs.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
    }
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(0);
    header.set_size(0);
    match &entry.kind {
        Kind::Directory => {
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Kind::Bytes(content) => {
            header.set_size(content.len().try_into()?);
            archive.append_data(&mut header, path, content.as_slice())?;
        }
        Kind::Copy(from) => {
            let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                bail!("{} is not a file", from.display());
            }
            header.set_size(metadata.len());
            // A file that grows meanwhile must not corrupt what follows it.
            archive.append_data(&mut header, path, file.take(metadata.len()))?;
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            archive.append_link(&mut header, path, target)?;
        }
        Kind::HardLink(target) => {
            header.set_entry_type(EntryType::Link);
            archive.append_link(&mut header, path, target)?;
        }
    }
    Ok(())
}

/// The path in a layer's notation: from the root, without a leading or trailing slash or dot.
fn clean(path: &str) -> String {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.collect::<Vec<_>>().join("/")
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).context("a name in an image must be UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(layer: &Layer) -> Vec<u8> {
        let mut out = Vec::new();
        layer.write(&mut out).unwrap();
        out
    }

    /// Path, type, mode and content of every entry.
    fn listing(tar: &[u8]) -> Vec<(String, EntryType, u32, String)> {
        let mut archive = tar::Archive::new(tar);
        let mut list = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().mtime().unwrap(), 0);
            let path = entry.path().unwrap().display().to_string();
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let (kind, mode) = (entry.header().entry_type(), entry.header().mode().unwrap());
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            list.push((path, kind, mode, link.unwrap_or(content)));
        }
        list
    }

    #[test]
    fn entries_are_sorted_and_parents_come_first() {
        let layer =
            Layer::default().bytes("/usr/bin/b", "B", 0o755).bytes("/usr/bin/a", "A", 0o644).symlink("/bin", "usr/bin");
        let expected = [
            ("bin", EntryType::Symlink, 0o777, "usr/bin"),
            ("usr/", EntryType::Directory, 0o755, ""),
            ("usr/bin/", EntryType::Directory, 0o755, ""),
            ("usr/bin/a", EntryType::Regular, 0o644, "A"),
            ("usr/bin/b", EntryType::Regular, 0o755, "B"),
        ];
        let expected = expected.map(|(path, kind, mode, content)| (path.to_owned(), kind, mode, content.to_owned()));
        assert_eq!(listing(&written(&layer)), expected);
    }

    #[test]
    fn order_and_times_of_a_tar_archive_do_not_change_the_bytes() {
        let make = |order: [&str; 2], time: u64| {
            let mut builder = tar::Builder::new(Vec::new());
            for name in order {
                let mut header = Header::new_gnu();
                header.set_mode(0o600);
                header.set_uid(101);
                header.set_gid(102);
                header.set_mtime(time);
                header.set_username("someone").unwrap();
                header.set_size(name.len().try_into().unwrap());
                builder.append_data(&mut header, format!("./{name}"), name.as_bytes()).unwrap();
            }
            let mut layer = Layer::default();
            layer.add_tar(builder.into_inner().unwrap().as_slice(), |path| Some(path.to_owned())).unwrap();
            written(&layer)
        };
        let one = make(["a", "b"], 1);
        assert_eq!(one, make(["b", "a"], 2_000_000_000));
        assert_eq!(
            tar::Archive::new(one.as_slice()).entries().unwrap().next().unwrap().unwrap().header().uid().unwrap(),
            101
        );
    }

    #[test]
    fn a_hard_link_follows_its_target() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(3);
        builder.append_data(&mut header.clone(), "./sbin/mke2fs", b"ELF".as_slice()).unwrap();
        header.set_size(0);
        header.set_entry_type(EntryType::Link);
        builder.append_link(&mut header, "./sbin/a-link", "./sbin/mke2fs").unwrap();
        let mut layer = Layer::default();
        let tar = builder.into_inner().unwrap();
        layer.add_tar(tar.as_slice(), |path| Some(path.replace("sbin", "usr/sbin"))).unwrap();
        let names: Vec<_> = listing(&written(&layer)).into_iter().map(|(path, .., link)| (path, link)).collect();
        assert_eq!(names.last().unwrap(), &("usr/sbin/a-link".to_owned(), "usr/sbin/mke2fs".to_owned()));
        assert_eq!(layer.content("/usr/sbin/a-link"), Some(b"ELF".as_slice()));
        layer.retain(|path, _| path != "usr/sbin/mke2fs");
        assert!(!listing(&written(&layer)).iter().any(|(path, ..)| path.contains("link")));
    }

    #[test]
    fn a_folder_keeps_modes_links_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/name"), "quarry").unwrap();
        std::os::unix::fs::symlink("name", folder.path().join("etc/link")).unwrap();
        let mut layer = Layer::default();
        layer.add_tree(folder.path()).unwrap();
        let list = listing(&written(&layer));
        let of = |path: &str| list.iter().find(|(found, ..)| found == path).unwrap();
        assert_eq!(of("etc/name").3, "quarry");
        assert_eq!(of("etc/link").3, "name");
    }

    #[test]
    fn an_error_names_the_missing_file() {
        let layer = Layer::default().file("/pause", "/no/such/file", 0o755);
        let error = format!("{:#}", layer.write(Vec::new()).unwrap_err());
        assert!(error.contains("/pause") && error.contains("/no/such/file"), "{error}");
    }

    #[test]
    fn content_is_found_behind_a_linked_folder() {
        let layer = Layer::default().bytes("/usr/share/doc/base/copyright", "text", 0o644);
        let layer = layer.symlink("/usr/share/doc/lib", "base");
        assert_eq!(layer.content("/usr/share/doc/lib/copyright"), Some(b"text".as_slice()));
        assert_eq!(layer.content("/usr/share/doc/none/copyright"), None);
    }
}
