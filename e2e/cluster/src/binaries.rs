//! The programs of Kubernetes, built from their Go modules.
//!
//! Nothing is prebuilt and no registry is used: each folder in the crate's `binaries/` is a Go module whose
//! `go.mod` requires an upstream module at one version and lists its programs as tools, and whose `go.sum`
//! verifies every source. [`build`] links them statically, for this machine and for the guests, and keeps
//! them in the cache: a group of programs is rebuilt only when a file of its module, its flags or Go itself
//! changes.
//!
//! Go's own cache stays in its usual place: Go drops compiled packages that were not used for some days, and
//! an interrupted build resumes from there.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quarry_cache::Cache;
use quarry_vm::run;

mod groups;

pub use groups::{CONFORMANCE, ETCDCTL, GROUPS, Group, MINORS, PROMETHEUS, REGISTRAR, SNAPSHOTTER};

/// The processor that the control plane and the guests run on, in Go's words.
pub const ARCHITECTURE: &str = "amd64";

/// From this version on Go fetches, through its proxy and verified, the newer Go that a module asks for.
const OLDEST_GO: (u32, u32) = (1, 21);

/// For all of Kubernetes from nothing on a small machine that does other work as well.
const DEADLINE: Duration = Duration::from_secs(3 * 3600);

/// How long the build of all [`GROUPS`] takes: 19 minutes of processor time.
const MINUTES: &str = "15 to 30 minutes on two processors";

/// How often a long build reports that it is still running.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// The folder with the programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kube-scheduler.
    pub scheduler: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// helm.
    pub helm: PathBuf,
    /// external-provisioner.
    pub provisioner: PathBuf,
    /// external-resizer.
    pub resizer: PathBuf,
    /// What a node runs: kubelet, containerd, its shim and its command.
    pub node: Vec<PathBuf>,
    /// The CNI plugins.
    pub cni: Vec<PathBuf>,
}

impl Binaries {
    /// The folder that holds kubectl, for a user's PATH.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.kubectl.parent().unwrap_or(&self.kubectl)
    }
}

/// Builds the programs that are not in the cache yet, for [`ARCHITECTURE`].
///
/// # Errors
/// Go is missing or too old (the message says what to install), or a build fails; the error quotes the end of
/// Go's output.
pub async fn build(cache: &Cache) -> Result<Binaries> {
    build_with(cache, GROUPS).await
}

/// As [`build`], with another minor version of Kubernetes, such as `1.33`: one of [`MINORS`].
///
/// # Errors
/// As [`build`]; there is no module for that version.
pub async fn build_minor(cache: &Cache, minor: &str) -> Result<Binaries> {
    let (_, kubernetes) = MINORS.iter().find(|(name, _)| *name == minor).with_context(|| {
        let known: Vec<_> = MINORS.iter().map(|(name, _)| *name).collect();
        format!("no module for Kubernetes {minor}: expected one of {}", known.join(", "))
    })?;
    let groups: Vec<Group> =
        GROUPS.iter().map(|group| if group.name == "kubernetes" { *kubernetes } else { *group }).collect();
    build_with(cache, &groups).await
}

async fn build_with(cache: &Cache, groups: &[Group]) -> Result<Binaries> {
    let built = build_groups(cache, groups, ARCHITECTURE).await?;
    let one = |name: &str| built.get(name).cloned().with_context(|| format!("no group has the program {name}"));
    let all = |names: &[&str]| names.iter().map(|name| one(name)).collect::<Result<Vec<_>>>();
    Ok(Binaries {
        etcd: one("etcd")?,
        apiserver: one("kube-apiserver")?,
        controller_manager: one("kube-controller-manager")?,
        scheduler: one("kube-scheduler")?,
        kubectl: one("kubectl")?,
        helm: one("helm")?,
        provisioner: one("csi-provisioner")?,
        resizer: one("csi-resizer")?,
        node: all(&["kubelet", "containerd", "containerd-shim-runc-v2", "ctr"])?,
        cni: all(&["bridge", "host-local", "loopback", "portmap"])?,
    })
}

/// The programs of external-snapshotter, and the manifests of its CRDs.
#[derive(Clone, Debug)]
pub struct Snapshotter {
    /// The sidecar.
    pub sidecar: PathBuf,
    /// The controller that a cluster has.
    pub controller: PathBuf,
    /// The CRDs of snapshots: a YAML file each.
    pub crds: Vec<PathBuf>,
}

/// The CRDs that the snapshot controller needs.
const CRDS: &[&str] = &["volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots"];

/// Builds external-snapshotter. Its CRDs are in the source of its Go module.
///
/// # Errors
/// As [`build`].
pub async fn snapshotter(cache: &Cache) -> Result<Snapshotter> {
    let built = build_groups(cache, &[SNAPSHOTTER], ARCHITECTURE).await?;
    let one = |name: &str| built.get(name).cloned().with_context(|| format!("no group has the program {name}"));
    let module = "github.com/kubernetes-csi/external-snapshotter/client/v8";
    let source = SNAPSHOTTER.source();
    call(&source, ["go", "mod", "download", module]).await?;
    let folder = call(&source, ["go", "list", "-m", "-f={{.Dir}}", module]).await?;
    let crd =
        |name: &&str| Path::new(folder.trim()).join("config/crd").join(format!("snapshot.storage.k8s.io_{name}.yaml"));
    Ok(Snapshotter {
        sidecar: one("csi-snapshotter")?,
        controller: one("snapshot-controller")?,
        crds: CRDS.iter().map(crd).collect(),
    })
}

/// Builds the registrar that older charts of Quarry need next to the node plugin.
///
/// # Errors
/// As [`build`].
pub(crate) async fn registrar(cache: &Cache) -> Result<PathBuf> {
    let built = build_groups(cache, &[REGISTRAR], ARCHITECTURE).await?;
    built.get("registrar").cloned().context("no group has the program registrar")
}

/// Builds the program with which operators manage etcd.
///
/// # Errors
/// As [`build`].
pub(crate) async fn etcdctl(cache: &Cache) -> Result<PathBuf> {
    let built = build_groups(cache, &[ETCDCTL], ARCHITECTURE).await?;
    built.get("etcdctl").cloned().context("no group has the program etcdctl")
}

/// Prometheus.
#[derive(Clone, Debug)]
pub(crate) struct Prometheus {
    /// The server.
    pub(crate) server: PathBuf,
    /// promtool, which queries it.
    pub(crate) tool: PathBuf,
}

/// Builds Prometheus.
///
/// # Errors
/// As [`build`].
pub(crate) async fn prometheus(cache: &Cache) -> Result<Prometheus> {
    let built = build_groups(cache, &[PROMETHEUS], ARCHITECTURE).await?;
    let one = |name: &str| built.get(name).cloned().with_context(|| format!("no group has the program {name}"));
    Ok(Prometheus { server: one("prometheus")?, tool: one("promtool")? })
}

/// Kubernetes' own tests, and what they need.
#[derive(Clone, Debug)]
pub struct Conformance {
    /// The program that contains all tests.
    pub tests: PathBuf,
    /// Runs them in several processes, and joins their reports.
    pub ginkgo: PathBuf,
    /// What pods of the tests run.
    pub agnhost: PathBuf,
}

/// Builds Kubernetes' own tests. The first build takes longer than that of Kubernetes.
///
/// # Errors
/// As [`build`].
pub async fn conformance(cache: &Cache) -> Result<Conformance> {
    let built = build_groups(cache, &[CONFORMANCE], ARCHITECTURE).await?;
    let one = |name: &str| built.get(name).cloned().with_context(|| format!("no group has the program {name}"));
    Ok(Conformance { tests: one("e2e.test")?, ginkgo: one("ginkgo")?, agnhost: one("agnhost")? })
}

/// As [`build`], for some groups or for another architecture: the path of each program by its name.
///
/// # Errors
/// As [`build`].
pub async fn build_groups(
    cache: &Cache,
    groups: &[Group],
    architecture: &str,
) -> Result<BTreeMap<&'static str, PathBuf>> {
    let mut missing = Vec::new();
    for group in groups {
        if !cache.contains(&group.kind(), &group.identity(architecture).await?.key) {
            missing.push(group.name);
        }
    }
    if missing.len() > 1 {
        eprintln!(
            "quarry-cluster: {} groups of programs are built from their sources, once: {}. All of Kubernetes takes \
             {MINUTES}.",
            missing.len(),
            missing.join(", ")
        );
    }
    let mut programs = BTreeMap::new();
    for group in groups {
        let place = missing.iter().position(|name| *name == group.name).map_or(0, |index| index + 1);
        let folder = group
            .build(cache, architecture, &format!("{place} of {}", missing.len()))
            .await
            .with_context(|| format!("cannot build {} from {}", group.name, group.module))?;
        programs.extend(group.programs.iter().map(|(_, name)| (*name, folder.join(name))));
    }
    Ok(programs)
}

/// What a group of programs is built from.
struct Identity {
    /// The version of the upstream module.
    version: String,
    /// The version of Go.
    go: String,
    flags: Vec<String>,
    /// The key in the cache.
    key: String,
}

impl Group {
    /// The folder of its `go.mod` and `go.sum`.
    fn source(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("binaries").join(self.name)
    }

    /// The kind of its entry in the cache.
    fn kind(&self) -> String {
        format!("go-{}", self.name)
    }

    /// What it is built from.
    async fn identity(&self, architecture: &str) -> Result<Identity> {
        let source = self.source();
        let go_mod = source.join("go.mod");
        let text = fs::read_to_string(&go_mod).with_context(|| format!("cannot read {}", go_mod.display()))?;
        let version = version(&text, self.module)
            .with_context(|| format!("{} does not require {}", go_mod.display(), self.module))?
            .to_owned();
        let flags = self.flags(&version);
        let go = go_version(&source).await?;
        let files = contents(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let parts = [go.as_bytes(), architecture.as_bytes()].into_iter();
        let parts = parts.chain(flags.iter().map(String::as_bytes)).chain(files.iter().map(Vec::as_slice));
        let key = format!("{version}-{architecture}-{}", quarry_cache::key(parts));
        Ok(Identity { version, go, flags, key })
    }

    /// The folder in the cache that holds its programs. `place` is its place among the groups that are built, such as `3
    /// of 7`.
    async fn build(&self, cache: &Cache, architecture: &str, place: &str) -> Result<PathBuf> {
        let source = self.source();
        let Identity { version, go, flags, key } = self.identity(architecture).await?;
        cache
            .entry(&self.kind(), &key, async |folder: &Path| {
                eprintln!("quarry-cluster: ({place}) building {} {version} with {go}", self.name);
                let (architecture, output) = (format!("GOARCH={architecture}"), format!("-o={}/", folder.display()));
                let environment = ["CGO_ENABLED=0", "GOOS=linux", &architecture, "go"];
                let programs = std::iter::once((&["build"][..], "tool"));
                let tests = self.tests.iter().map(|package| (&["test", "-c", "-vet=off"][..], *package));
                for (verb, package) in programs.chain(tests) {
                    let flags = flags.iter().map(String::as_str);
                    let words = environment.iter().chain(verb).copied().chain([output.as_str()]);
                    let command = words.chain(flags).chain([package]);
                    with_signs_of_life(self.name, call(&source, command)).await?;
                }
                self.rename_programs(folder)
            })
            .await
    }

    /// The flags that are the same for every program of the group.
    fn flags(&self, version: &str) -> Vec<String> {
        let mut parts = version.trim_start_matches('v').split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let variables = self.variables.iter().map(|variable| {
            format!(" -X {}", variable.replace("VERSION", version).replace("MAJOR", major).replace("MINOR", minor))
        });
        vec![
            "-trimpath".to_owned(),
            // Otherwise a program of our own would differ with each commit.
            "-buildvcs=false".to_owned(),
            format!("-tags={}", self.tags.join(",")),
            format!("-ldflags=-s -w{}", variables.collect::<String>()),
        ]
    }

    /// Renames the programs to the names used here, and fails if one is missing.
    fn rename_programs(&self, folder: &Path) -> Result<()> {
        for (built, name) in self.programs {
            fs::rename(folder.join(built), folder.join(name))
                .with_context(|| format!("go built no program {built}: is it a tool in {}/go.mod?", self.name))?;
        }
        Ok(())
    }
}

/// What the files of a folder hold, in the order of their names.
fn contents(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// The version at which a `go.mod` requires a module.
fn version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.trim().trim_start_matches("require ").split_whitespace();
        (words.next()? == module).then(|| words.next())?
    })
}

/// The version of Go that builds this module, which may be newer than the installed one.
async fn go_version(source: &Path) -> Result<String> {
    let need = format!(
        "Kubernetes is built with Go {}.{} or newer, which fetches the very version that it needs: install it from \
         https://go.dev/dl/ or with `apt-get install golang-go`, and have `go` on the PATH",
        OLDEST_GO.0, OLDEST_GO.1
    );
    let found = call(source, ["go", "env", "GOVERSION"]).await.with_context(|| need.clone())?;
    let found = found.trim();
    if parse_go_version(found).is_none_or(|version| version < OLDEST_GO) {
        bail!("the Go that is found here is {found:?}; {need}");
    }
    Ok(found.to_owned())
}

/// `go1.26.8` as (1, 26).
fn parse_go_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Runs a command in a Go module and returns its standard output. Variables may precede the command.
async fn call<'a>(source: &'a Path, command: impl IntoIterator<Item = &'a str>) -> Result<String> {
    // These modules are standalone, whatever workspace or vendor folder the user's own settings name.
    let own = ["GOTOOLCHAIN=auto", "GOWORK=off", "GOFLAGS=-mod=readonly"];
    let folder = [OsStr::new("-C"), source.as_os_str()];
    let words = own.into_iter().chain(command).map(OsStr::new);
    run(Path::new("env"), folder.into_iter().chain(words), DEADLINE).await
}

/// Reports every minute that a build is running: Go itself prints nothing until it ends.
async fn with_signs_of_life<T>(name: &str, work: impl Future<Output = T>) -> T {
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(SIGN_OF_LIFE);
    ticks.tick().await; // The first comes at once.
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => eprintln!("quarry-cluster: still building {name}, {} min", begin.elapsed().as_secs() / 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_requires_its_module_and_names_its_programs() {
        for group in GROUPS.iter().chain(MINORS.iter().map(|(_, group)| group)).chain(&[
            REGISTRAR,
            SNAPSHOTTER,
            ETCDCTL,
            PROMETHEUS,
            CONFORMANCE,
        ]) {
            let go_mod = fs::read_to_string(group.source().join("go.mod")).unwrap();
            assert!(version(&go_mod, group.module).is_some_and(|version| version.starts_with('v')), "{}", group.name);
            for (built, _) in group.programs {
                let package = format!("/{}", built.trim_end_matches(".test"));
                let tool = |line: &str| !line.starts_with("module") && line.trim().ends_with(&package);
                // Go leaves a major version out of a program's name.
                let go_mod = go_mod.replace("/server/v3", "/server").replace("/etcdctl/v3", "/etcdctl");
                assert!(go_mod.lines().any(tool), "{}: {built}", group.name);
            }
        }
    }

    #[test]
    fn programs_get_their_version() {
        let flags = GROUPS[0].flags("v1.36.4");
        assert!(flags[3].contains("version.gitVersion=v1.36.4 "), "{flags:?}");
        assert!(flags[3].contains("version.gitMajor=1 ") && flags[3].ends_with("version.gitMinor=36"), "{flags:?}");
    }

    #[test]
    fn a_required_version_is_found_in_each_form() {
        let go_mod = "require example.org/a v1.2.3\n\nrequire (\n\texample.org/b v0.4.0 // indirect\n)\n";
        assert_eq!(version(go_mod, "example.org/a"), Some("v1.2.3"));
        assert_eq!(version(go_mod, "example.org/b"), Some("v0.4.0"));
        assert_eq!(version(go_mod, "example.org/c"), None);
    }

    #[test]
    fn versions_of_go_are_read() {
        assert_eq!(parse_go_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_go_version("devel"), None);
    }
}
