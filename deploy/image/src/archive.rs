//! Reads an OCI archive back and verifies everything: every blob must match its digest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType};

use crate::oci::sha256;

/// An archive with one image.
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
    /// The image's manifest, as the index describes it: name, digest, platform.
    pub descriptor: Descriptor,
    /// The image's configuration.
    pub configuration: ImageConfiguration,
    layers: Vec<Descriptor>,
}

impl Archive {
    /// Reads and verifies an archive, down to the digest of every layer's unpacked bytes.
    ///
    /// # Errors
    /// The file cannot be read, or is not a complete and consistent OCI archive of one image.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("{} is not a valid OCI archive", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(File::open(path)?).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_str().context("a file's name is not UTF-8")?.to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(name, content);
        }
        if !files.contains_key("oci-layout") {
            bail!("it has no oci-layout");
        }
        let index = files.get("index.json").context("it has no index.json")?;
        let index = ImageIndex::from_reader(index.as_slice())?;
        let [descriptor] = index.manifests().as_slice() else { bail!("its index does not contain exactly one image") };
        let manifest = ImageManifest::from_reader(blob(&files, descriptor)?)?;
        let configuration = ImageConfiguration::from_reader(blob(&files, manifest.config())?)?;
        let archive = Self { descriptor: descriptor.clone(), configuration, layers: manifest.layers().clone(), files };
        let promised = archive.configuration.rootfs().diff_ids();
        if promised.len() != archive.layers.len() {
            bail!("its manifest has {} layers, its configuration {}", archive.layers.len(), promised.len());
        }
        for (layer, promised) in archive.layers.iter().zip(promised) {
            let found = format!("sha256:{}", sha256(&archive.tar(layer)?));
            if *promised != found {
                bail!("layer {} unpacks to {found}, not to {promised}", layer.digest());
            }
        }
        Ok(archive)
    }

    /// Unpacks all layers into an empty folder.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn unpack(&self, folder: &Path) -> Result<()> {
        for layer in &self.layers {
            let tar = self.tar(layer)?;
            let mut tar = tar::Archive::new(tar.as_slice());
            tar.set_preserve_permissions(true);
            tar.set_preserve_ownerships(nix::unistd::geteuid().is_root());
            tar.unpack(folder).with_context(|| format!("cannot unpack the image into {}", folder.display()))?;
        }
        Ok(())
    }

    /// A layer's tar archive.
    fn tar(&self, layer: &Descriptor) -> Result<Vec<u8>> {
        let stored = blob(&self.files, layer)?;
        match layer.media_type() {
            MediaType::ImageLayer => Ok(stored.to_vec()),
            MediaType::ImageLayerGzip => {
                let mut tar = Vec::new();
                GzDecoder::new(stored).read_to_end(&mut tar).context("cannot decompress a layer")?;
                Ok(tar)
            }
            other => bail!("a layer has the unknown type {other}"),
        }
    }
}

/// The blob for this descriptor, verified.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Descriptor) -> Result<&'a [u8]> {
    let digest = descriptor.as_digest_sha256().context("a digest is not SHA-256")?;
    let content = files.get(&format!("blobs/sha256/{digest}")).with_context(|| format!("blob {digest} is missing"))?;
    if sha256(content) != digest || u64::try_from(content.len())? != descriptor.size() {
        bail!("blob {digest} is damaged");
    }
    Ok(content)
}
