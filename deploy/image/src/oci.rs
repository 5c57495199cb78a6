//! Writes an image as an OCI archive: one file that container runtimes import without a registry.
//!
//! ```no_run
//! # fn example() -> anyhow::Result<()> {
//! use quarry_image::Image;
//!
//! let image = Image::new("registry.k8s.io/pause:3.10").file("/pause", "target/pause", 0o755).entrypoint(["/pause"]);
//! println!("{}", image.write("pause.tar".as_ref())?.digest);
//! # Ok(())
//! # }
//! ```
//!
//! The same files and settings give the same bytes. `ctr --namespace k8s.io images import FILE` imports the
//! image under its full name.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use oci_spec::image::{
    ANNOTATION_REF_NAME, ConfigBuilder, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder, RootFsBuilder, SCHEMA_VERSION,
    Sha256Digest,
};
use serde::Serialize;

use crate::{Architecture, Layer};

/// The annotation from which containerd reads an image's full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// An image to write.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    architecture: Architecture,
    layers: Vec<Source>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    environment: Vec<String>,
    user: Option<String>,
    labels: BTreeMap<String, String>,
    created: Option<i64>,
    compressed: bool,
}

#[derive(Clone, Debug)]
enum Source {
    Layer(Layer),
    Tree(PathBuf),
}

/// The result of writing an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The digest of the manifest, which identifies the image.
    pub digest: String,
    /// The size of all layers as stored and transferred.
    pub compressed: u64,
    /// The size of all layers when unpacked, tar headers included.
    pub unpacked: u64,
}

impl Image {
    /// An empty image with this name, tag included, for this host's architecture.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            architecture: Architecture::of_this_host(),
            layers: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            user: None,
            labels: BTreeMap::new(),
            created: None,
            compressed: true,
        }
    }

    /// Sets the architecture.
    #[must_use]
    pub fn architecture(mut self, architecture: Architecture) -> Self {
        self.architecture = architecture;
        self
    }

    /// Adds a layer.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(Source::Layer(layer));
        self
    }

    /// Adds a layer with the content of a folder or a tar archive, read when the image is written. Owners are
    /// kept: use a folder whose files belong to root, or a tar archive.
    #[must_use]
    pub fn tree(mut self, from: impl Into<PathBuf>) -> Self {
        self.layers.push(Source::Tree(from.into()));
        self
    }

    /// Adds a file of root with these permissions, copied from this host, to the last layer of single files.
    #[must_use]
    pub fn file(mut self, path: &str, from: impl Into<PathBuf>, mode: u32) -> Self {
        let last = match self.layers.pop() {
            Some(Source::Layer(layer)) => layer,
            other => {
                self.layers.extend(other);
                Layer::default()
            }
        };
        self.layer(last.file(path, from, mode))
    }

    /// Sets the entrypoint, which runs whatever arguments a container has.
    #[must_use]
    pub fn entrypoint(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the default arguments of a container.
    #[must_use]
    pub fn command(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Sets the default user of containers: a number, or a name in the image's /etc/passwd.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: impl Into<String>) -> Self {
        self.labels.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the image's date, in seconds since the epoch. Without it the image has no date. Files are not
    /// affected.
    #[must_use]
    pub fn created(mut self, seconds: i64) -> Self {
        self.created = Some(seconds);
        self
    }

    /// Leaves the layers uncompressed: faster to import on a slow processor.
    #[must_use]
    pub fn uncompressed(mut self) -> Self {
        self.compressed = false;
        self
    }

    /// Writes the archive. It appears under its name once it is complete.
    ///
    /// # Errors
    /// A file of the image cannot be read, or the archive cannot be written.
    pub fn write(&self, to: &Path) -> Result<Written> {
        let (blobs, written) = self.blobs().with_context(|| format!("cannot build the image {}", self.name))?;
        let partial = to.with_extension("partial");
        let write = || -> Result<()> {
            let mut archive = tar::Builder::new(BufWriter::new(File::create(&partial)?));
            for (path, content) in &blobs {
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_mtime(0);
                header.set_size(content.len().try_into()?);
                archive.append_data(&mut header, path, content.as_slice())?;
            }
            archive.into_inner()?.flush()?;
            Ok(fs::rename(&partial, to)?)
        };
        write().with_context(|| format!("cannot write the image {}", to.display()))?;
        Ok(written)
    }

    /// The archive's files by their paths.
    fn blobs(&self) -> Result<(BTreeMap<String, Vec<u8>>, Written)> {
        let mut blobs = BTreeMap::new();
        let mut written = Written { digest: String::new(), compressed: 0, unpacked: 0 };
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        let kind = if self.compressed { MediaType::ImageLayerGzip } else { MediaType::ImageLayer };
        for source in &self.layers {
            let tar = source.tar()?;
            written.unpacked += u64::try_from(tar.len())?;
            diff_ids.push(format!("sha256:{}", sha256(&tar)));
            let layer = keep(&mut blobs, kind.clone(), if self.compressed { gzip(&tar)? } else { tar })?;
            written.compressed += layer.size();
            layers.push(layer);
        }
        let configuration = self.configuration(diff_ids)?;
        let config = keep(&mut blobs, MediaType::ImageConfig, json(&configuration)?)?;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers)
            .build()?;
        let mut descriptor = keep(&mut blobs, MediaType::ImageManifest, json(&manifest)?)?;
        written.digest = descriptor.digest().to_string();
        let names = [ANNOTATION_REF_NAME, CONTAINERD_NAME].map(|key| (key.to_owned(), self.name.clone()));
        descriptor.set_annotations(Some(HashMap::from(names)));
        let platform = PlatformBuilder::default().architecture(self.architecture.oci()).os(Os::Linux).build()?;
        descriptor.set_platform(Some(platform));
        let index = ImageIndexBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageIndex)
            .manifests([descriptor])
            .build()?;
        let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
        blobs.insert("index.json".to_owned(), json(&index)?);
        blobs.insert("oci-layout".to_owned(), json(&layout)?);
        Ok((blobs, written))
    }

    /// The image's configuration.
    fn configuration(&self, diff_ids: Vec<String>) -> Result<ImageConfiguration> {
        let mut config = ConfigBuilder::default().working_dir("/").env(self.environment.clone());
        if !self.entrypoint.is_empty() {
            config = config.entrypoint(self.entrypoint.clone());
        }
        if !self.command.is_empty() {
            config = config.cmd(self.command.clone());
        }
        if let Some(user) = &self.user {
            config = config.user(user);
        }
        if !self.labels.is_empty() {
            config = config.labels(self.labels.clone().into_iter().collect::<HashMap<_, _>>());
        }
        let mut image = ImageConfigurationBuilder::default()
            .architecture(self.architecture.oci())
            .os(Os::Linux)
            .config(config.build()?)
            .rootfs(RootFsBuilder::default().diff_ids(diff_ids).build()?);
        if let Some(seconds) = self.created {
            let date = jiff::Timestamp::from_second(seconds).context("the image's date is out of range")?;
            image = image.created(date.to_string());
        }
        Ok(image.build()?)
    }
}

impl Source {
    /// The layer as a tar archive.
    fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Vec::new();
        match self {
            Self::Layer(layer) => layer.write(&mut tar)?,
            Self::Tree(from) => {
                let mut layer = Layer::default();
                layer.add_tree(from)?;
                layer.write(&mut tar)?;
            }
        }
        Ok(tar)
    }
}

/// Stores a blob by its digest and returns its descriptor.
fn keep(blobs: &mut BTreeMap<String, Vec<u8>>, kind: MediaType, content: Vec<u8>) -> Result<Descriptor> {
    let digest = sha256(&content);
    let descriptor = Descriptor::new(kind, content.len().try_into()?, Sha256Digest::from_str(&digest)?);
    blobs.insert(format!("blobs/sha256/{digest}"), content);
    Ok(descriptor)
}

fn gzip(content: &[u8]) -> Result<Vec<u8>> {
    // The header contains no time and no file name.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

/// A document with sorted keys: oci-spec keeps labels and annotations in maps whose order changes from run to run.
fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(document)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

/// In hexadecimal digits.
pub(crate) fn sha256(content: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
