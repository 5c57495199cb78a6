//! The host's own lvm configuration: the devices that lvm may use, and where it keeps its locks.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use quarry_exec::Command;

use crate::settings::Filter;
use crate::{Error, PvUuid};

/// The settings that decide which devices lvm uses on this host, and where its locks are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostSettings {
    /// Whether `devices/filter` is set.
    pub(crate) filter: bool,
    /// Whether `devices/global_filter` is set.
    pub(crate) global_filter: bool,
    /// The devices file, if one is in force.
    pub(crate) file: Option<DevicesFile>,
    /// `global/locking_dir`, if it is set.
    pub(crate) locks: Option<PathBuf>,
    /// The files with these settings, and the version of each before it was read.
    versions: Vec<(PathBuf, Version)>,
}

/// The version of a file: inode, size, and time of the last change. `None` if it does not exist, or cannot be looked at.
type Version = Option<(u64, u64, i64, i64)>;

fn version(path: &Path) -> Version {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

/// lvm's list of the devices that it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicesFile {
    pub(crate) path: PathBuf,
    /// The listed physical volumes.
    listed: BTreeSet<PvUuid>,
}

impl DevicesFile {
    /// Whether the physical volume with that UUID is listed. lvm itself finds its device, even if that has
    /// another name now.
    pub(crate) fn lists(&self, uuid: PvUuid) -> bool {
        self.listed.contains(&uuid)
    }
}

impl HostSettings {
    /// Which of lvm's filters selects our devices. If the host's lvm.conf sets both, `devices/global_filter` is kept.
    pub(crate) fn our_filter(&self) -> Filter {
        if self.global_filter { Filter::Other } else { Filter::Global }
    }

    /// Whether no file with these settings was changed since.
    pub(crate) fn are_current(&self) -> bool {
        self.versions.iter().all(|(path, before)| version(path) == *before)
    }
}

/// Reads the host's settings. Opens no device.
///
/// # Errors
/// lvm cannot be run, or the devices file cannot be read.
pub(crate) async fn host_settings() -> Result<HostSettings, Error> {
    let folder = system_folder();
    let mut versions = Vec::new();
    let mut note = |path: PathBuf| {
        let version = version(&path);
        versions.push((path, version));
    };
    note(folder.join("lvm.conf"));
    note(folder.join("lvmlocal.conf"));
    let conf = LvmConf::parse(&configured(&["devices", "global/locking_dir"]).await?);
    note(conf.devices_file(&folder));
    let file = devices_file(&folder, &conf)?;
    Ok(HostSettings { filter: conf.filter, global_filter: conf.global_filter, file, locks: conf.locks, versions })
}

/// These sections or settings in the host's lvm.conf and lvmlocal.conf; nothing is printed for what they do not set.
///
/// # Errors
/// lvm cannot be run.
pub(crate) async fn configured(names: &[&str]) -> Result<String, Error> {
    // Without the merge, lvmconfig prints only what `--config` sets.
    let command = Command::query("lvm").subcommand("lvmconfig").args(["--type", "current", "--mergedconfig"]);
    let command = command.hidden_args(["--config", "config/checks=0 config/abort_on_errors=0"]).args(names);
    // It exits with an error if one of them is not set.
    Ok(String::from_utf8_lossy(&command.run().await?.stdout).into_owned())
}

/// The folder with lvm's configuration.
pub(crate) fn system_folder() -> PathBuf {
    std::env::var_os("LVM_SYSTEM_DIR").map_or_else(|| PathBuf::from("/etc/lvm"), PathBuf::from)
}

/// The settings in lvm.conf. Settings that are not there have lvm's default, which may differ between host
/// and image.
#[derive(Debug, Default, PartialEq, Eq)]
struct LvmConf {
    use_devicesfile: Option<bool>,
    devicesfile: Option<String>,
    filter: bool,
    global_filter: bool,
    locks: Option<PathBuf>,
}

impl LvmConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            match key {
                "use_devicesfile" => conf.use_devicesfile = Some(value != "0"),
                "devicesfile" => conf.devicesfile = Some(value.trim_matches('"').to_owned()),
                "filter" => conf.filter = true,
                "global_filter" => conf.global_filter = true,
                "locking_dir" => conf.locks = Some(PathBuf::from(value.trim_matches('"'))),
                _ => {}
            }
        }
        conf
    }

    /// Where the devices file is, if there is one.
    fn devices_file(&self, folder: &Path) -> PathBuf {
        folder.join("devices").join(self.devicesfile.as_deref().unwrap_or("system.devices"))
    }
}

/// The devices file. If it exists, it is in force unless lvm.conf says otherwise: by default, it exists where
/// the host's lvm has made it, and the lvm in this image may have another default.
fn devices_file(folder: &Path, conf: &LvmConf) -> Result<Option<DevicesFile>, Error> {
    if conf.use_devicesfile == Some(false) {
        return Ok(None);
    }
    let path = conf.devices_file(folder);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(DevicesFile { listed: listed(&text), path })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { action: "read the devices file", path, source }),
    }
}

fn listed(text: &str) -> BTreeSet<PvUuid> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let uuids = lines.flat_map(str::split_whitespace).filter_map(|field| field.strip_prefix("PVID="));
    // A device without a physical volume has a dot.
    uuids.filter_map(|uuid| uuid.parse().ok()).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{DevicesFile, listed};

    /// A devices file with that text.
    pub(crate) fn devices_file(text: &str) -> DevicesFile {
        DevicesFile { path: "/etc/lvm/devices/system.devices".into(), listed: listed(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# LVM uses devices listed in this file.\nVERSION=1.1.3\nHOSTNAME=other\n\
        #IDTYPE=devname IDNAME=/dev/vdd DEVNAME=/dev/vdd PVID=zzzzzzxnn6CTAqVGGiyevS3Z0iAd7ElT\n\
        IDTYPE=sys_serial IDNAME=d1 DEVNAME=/dev/vdb PVID=iCdcNVXnn6CTAqVGGiyevS3Z0iAd7ElT\n\
        IDTYPE=sys_serial IDNAME=d2 DEVNAME=/dev/vdc PVID=.\n";

    #[test]
    fn a_changed_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lvm.conf");
        let read = || HostSettings { versions: vec![(path.clone(), version(&path))], ..HostSettings::default() };
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        let absent = read();
        write(&path, "filter");
        let written = read();
        assert!(written.are_current() && !absent.are_current());
        write(&path, "filters");
        assert!(!written.are_current());
        // As editors do it.
        let longer = read();
        let other = folder.path().join("new");
        write(&other, "filters");
        std::fs::rename(&other, &path).unwrap();
        assert!(!longer.are_current());
        let last = read();
        std::fs::remove_file(&path).unwrap();
        assert!(!last.are_current() && absent.are_current());
    }

    #[test]
    fn device_settings_are_parsed() {
        let conf =
            LvmConf::parse("devices {\n\tuse_devicesfile=1\n\tdevicesfile=\"mine.devices\"\n\tfilter=[\"a|.*|\"]\n}\n");
        let devicesfile = Some("mine.devices".to_owned());
        assert_eq!(conf, LvmConf { use_devicesfile: Some(true), devicesfile, filter: true, ..LvmConf::default() });
        assert_eq!(LvmConf::parse("  Configuration node devices not found"), LvmConf::default());
        let conf = LvmConf::parse("devices {\n\tglobal_filter=[\"r|x|\"]\n}\nlocking_dir=\"/run/locks\"\n");
        assert!(conf.global_filter && conf.locks == Some(PathBuf::from("/run/locks")));
    }

    #[test]
    fn an_existing_devices_file_is_in_force() {
        let folder = tempfile::tempdir().expect("folder");
        let file = |conf: &LvmConf| devices_file(folder.path(), conf).expect("read");
        assert_eq!(file(&LvmConf::default()), None);
        std::fs::create_dir(folder.path().join("devices")).expect("folder");
        std::fs::write(folder.path().join("devices/system.devices"), FILE).expect("write");
        let found = file(&LvmConf::default()).expect("in force");
        let lists = |uuid: &str| found.lists(uuid.parse().expect(uuid));
        assert!(lists("iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT"));
        assert!(!lists("zzzzzz-xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT"), "a comment");
        assert_eq!(file(&LvmConf { use_devicesfile: Some(false), ..LvmConf::default() }), None);
        let elsewhere = LvmConf { devicesfile: Some("other.devices".to_owned()), ..LvmConf::default() };
        assert_eq!(file(&elsewhere), None);
        std::fs::create_dir(folder.path().join("devices/odd.devices")).expect("folder");
        let unreadable = LvmConf { devicesfile: Some("odd.devices".to_owned()), ..LvmConf::default() };
        assert!(devices_file(folder.path(), &unreadable).is_err());
    }
}
