//! What the host's own configuration of lvm says of the devices that lvm may use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quarry_exec::Command;

use crate::Error;

/// The settings that decide which devices lvm uses on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostDevices {
    /// Whether `devices/filter` is set.
    pub(crate) filter: bool,
    /// Whether `devices/global_filter` is set.
    pub(crate) global_filter: bool,
    /// The devices file, where one is in force.
    pub(crate) file: Option<DevicesFile>,
}

/// lvm's list of the devices that it may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicesFile {
    pub(crate) path: PathBuf,
    /// The UUIDs of the physical volumes that it lists, without hyphens.
    listed: BTreeSet<String>,
}

impl DevicesFile {
    /// Whether the physical volume with that UUID is listed. Which device it lies on now is for lvm to know: it finds a
    /// listed one again under another name.
    pub(crate) fn lists(&self, uuid: &str) -> bool {
        self.listed.contains(&uuid.replace('-', ""))
    }
}

/// Reads the host's settings. No device is opened.
///
/// # Errors
/// lvm cannot be run, or there is a devices file that cannot be read.
pub(crate) async fn host_devices() -> Result<HostDevices, Error> {
    let said = Said::read(&section("devices").await?);
    let file = devices_file(&system_folder(), &said)?;
    Ok(HostDevices { filter: said.filter, global_filter: said.global_filter, file })
}

/// What the host's lvm.conf and lvmlocal.conf set in a section; empty where they set nothing there.
///
/// # Errors
/// lvm cannot be run.
pub(crate) async fn section(name: &str) -> Result<String, Error> {
    // Without the merge lvmconfig prints only what `--config` sets.
    let command = Command::query("lvm").subcommand("lvmconfig").args(["--type", "current", "--mergedconfig"]);
    let command = command.hidden_args(["--config", "config/checks=0 config/abort_on_errors=0"]).arg(name);
    // It ends with an error where nothing is set.
    Ok(String::from_utf8_lossy(&command.run().await?.stdout).into_owned())
}

/// The folder of lvm's configuration.
pub(crate) fn system_folder() -> PathBuf {
    std::env::var_os("LVM_SYSTEM_DIR").map_or_else(|| PathBuf::from("/etc/lvm"), PathBuf::from)
}

/// What lvm.conf says; what it does not say is lvm's default, which may be another one on the host than in an image.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    use_devicesfile: Option<bool>,
    devicesfile: Option<String>,
    filter: bool,
    global_filter: bool,
}

impl Said {
    fn read(text: &str) -> Self {
        let mut said = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            match key {
                "use_devicesfile" => said.use_devicesfile = Some(value != "0"),
                "devicesfile" => said.devicesfile = Some(value.trim_matches('"').to_owned()),
                "filter" => said.filter = true,
                "global_filter" => said.global_filter = true,
                _ => {}
            }
        }
        said
    }
}

/// A devices file that exists is in force unless lvm.conf says otherwise: by default it is where the host's lvm made it,
/// and the lvm that we run may have another default.
fn devices_file(folder: &Path, said: &Said) -> Result<Option<DevicesFile>, Error> {
    if said.use_devicesfile == Some(false) {
        return Ok(None);
    }
    let path = folder.join("devices").join(said.devicesfile.as_deref().unwrap_or("system.devices"));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(DevicesFile { listed: listed(&text), path })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { action: "read the devices file", path, source }),
    }
}

fn listed(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let uuids = lines.flat_map(str::split_whitespace).filter_map(|field| field.strip_prefix("PVID="));
    uuids.filter(|uuid| *uuid != ".").map(str::to_owned).collect()
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
    fn reads_what_the_host_says_of_devices() {
        let said =
            Said::read("devices {\n\tuse_devicesfile=1\n\tdevicesfile=\"mine.devices\"\n\tfilter=[\"a|.*|\"]\n}\n");
        let devicesfile = Some("mine.devices".to_owned());
        assert_eq!(said, Said { use_devicesfile: Some(true), devicesfile, filter: true, global_filter: false });
        assert_eq!(Said::read("  Configuration node devices not found"), Said::default());
        assert!(Said::read("devices {\n\tglobal_filter=[\"r|x|\"]\n}").global_filter);
    }

    #[test]
    fn a_devices_file_is_in_force_where_it_exists() {
        let folder = tempfile::tempdir().expect("folder");
        let file = |said: &Said| devices_file(folder.path(), said).expect("read");
        assert_eq!(file(&Said::default()), None);
        std::fs::create_dir(folder.path().join("devices")).expect("folder");
        std::fs::write(folder.path().join("devices/system.devices"), FILE).expect("write");
        let found = file(&Said::default()).expect("in force");
        assert!(found.lists("iCdcNV-Xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT"));
        assert!(!found.lists("zzzzzz-xnn6-CTAq-VGGi-yevS-3Z0i-Ad7ElT"), "a comment");
        assert!(!found.lists("."));
        assert_eq!(file(&Said { use_devicesfile: Some(false), ..Said::default() }), None);
        let elsewhere = Said { devicesfile: Some("other.devices".to_owned()), ..Said::default() };
        assert_eq!(file(&elsewhere), None);
        std::fs::create_dir(folder.path().join("devices/odd.devices")).expect("folder");
        let unreadable = Said { devicesfile: Some("odd.devices".to_owned()), ..Said::default() };
        assert!(devices_file(folder.path(), &unreadable).is_err());
    }
}
