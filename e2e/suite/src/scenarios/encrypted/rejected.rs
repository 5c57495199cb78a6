//! What is rejected, and changes nothing.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;

use super::super::steps::{close, open};
use super::{DISK, HEADER, KEY, PASSPHRASE, not_logged, start};
use crate::csi::{Ask, Made, refused, retry};
use crate::node::{BINARY, Node};
use crate::scenario::{Context, Passed};

/// How often a wrong passphrase is tried, in `make soak` and otherwise.
const WRONG: [usize; 2] = [100, 10];

/// What is rejected, and changes nothing.
pub async fn refusals(context: Context) -> Passed {
    let [whole, sample] = WRONG;
    let tries = if context.settings.soak { whole } else { sample };
    let mut node = Node::bare("encrypted-refused", &[DISK, DISK]).await?;
    start(&mut node).await?;
    rejected(&node).await.context("what an encrypted volume cannot be")?;
    foreign(&node).await.context("foreign data")?;
    wrong_keys(&node, tries).await.context("wrong keys")?;
    not_logged(&node).await?;
    Ok(format!("{tries} wrong keys, 5 foreign or lost headers"))
}

/// A wrong passphrase, also a changed one, is rejected, and not a byte changes.
async fn wrong_keys(node: &Node, tries: usize) -> Result<()> {
    let ask = Ask::mount("pvc-wrong", "ext4").encrypted(KEY);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(node, &made).await?;
    node.vm.sh(format!("seq 1000 >'{}/file'", made.target())).await?;
    close(node, &made).await?;
    let raw = node.storage.device(&ask.name);
    // Makes the device appear.
    let wrong = |key: &str| Made { ask: ask.clone().encrypted(key), ..made.clone() };
    node.kubelet_folders(&made).await?;
    let attempt = async |key: &str| {
        let made = wrong(key);
        let staged = retry(|| node.csi.stage(&made)).await;
        refused(key, staged, Code::FailedPrecondition, "opens no key slot")
    };
    attempt(&format!("{KEY}x")).await?;
    let sum = format!("head -c {} {raw} | sha256sum; sha256sum <{raw}", HEADER);
    let before = node.vm.sh(sum.clone()).await?;
    for at in 0..tries {
        attempt(&format!("{}{at}", &KEY[..40])).await?;
    }
    attempt(&format!("{KEY}\n")).await?;
    let staged = node.csi.stage(&wrong(&"x".repeat(5000))).await;
    refused("a long key", staged, Code::FailedPrecondition, "5000 bytes")?;
    let staged = node.csi.stage(&wrong("")).await;
    refused("an empty key", staged, Code::FailedPrecondition, "0 bytes")?;
    ensure!(node.vm.sh(sum).await? == before, "a wrong key changed bytes");

    // The passphrase is changed as docs/encryption.md says, while the volume is used.
    open(node, &made).await?;
    rekey(node, &made, KEY, PASSPHRASE, "--keep-old", ["was added", "was kept"]).await?;
    close(node, &made).await?;
    open(node, &wrong(PASSPHRASE)).await.context("the new passphrase, next to the old one")?;
    close(node, &made).await?;
    open(node, &made).await.context("the old passphrase, next to the new one")?;
    rekey(node, &made, KEY, PASSPHRASE, "", ["opened the volume already", "was removed"]).await?;
    rekey(node, &made, KEY, PASSPHRASE, "", ["opened the volume already", "did not open"]).await?;
    for (old, new, why) in [(KEY, "another", "opens no key slot"), (PASSPHRASE, PASSPHRASE, "are the same")] {
        let error = rekey(node, &made, old, new, "", ["", ""]).await.expect_err("it was changed");
        ensure!(format!("{error:#}").contains(why), "{error:#}");
    }
    close(node, &made).await?;
    let error = rekey(node, &made, PASSPHRASE, KEY, "", ["", ""]).await.expect_err("it was changed");
    ensure!(format!("{error:#}").contains("is not open on this host"), "{error:#}");
    attempt(KEY).await.context("the old passphrase")?;
    let made = wrong(PASSPHRASE);
    open(node, &made).await.context("the new passphrase")?;
    node.vm.sh(format!("seq 1000 | cmp - '{}/file'", made.target())).await?;
    close(node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await
}

/// Changes the passphrase of an open volume, and checks what is said about the new and the old one.
async fn rekey(node: &Node, made: &Made, old: &str, new: &str, option: &str, said: [&str; 2]) -> Result<()> {
    node.vm.write("/run/old", old.as_bytes(), 0o600).await?;
    node.vm.write("/run/new", new.as_bytes(), 0o600).await?;
    let script = format!(
        "{{ base64 -w 0 /run/old; echo; base64 -w 0 /run/new; }} | {BINARY} encryption rekey --volume {} {option}",
        made.id
    );
    let output = node.vm.sh(script).await?;
    let lines: Vec<&str> = output.lines().collect();
    ensure!(
        lines.len() == 2 && lines.iter().zip(said).all(|(line, said)| line.contains(said)),
        "it said {output:?}, not {said:?}"
    );
    Ok(())
}

/// What Quarry did not write is never overwritten, and a lost header is never replaced.
async fn foreign(node: &Node) -> Result<()> {
    let activate = |raw: &str| format!("lvchange -qq -ay {0} && udevadm settle && test -b {0}", raw);
    for (name, script) in [
        ("pvc-foreign-fs", "mkfs.ext4 -q -F $raw"),
        ("pvc-foreign-luks", "printf x | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $raw -"),
        ("pvc-foreign-luks1", "printf x | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 $raw -"),
    ] {
        let ask = Ask::block(name).encrypted(KEY);
        let made = retry(|| node.csi.create(&ask)).await?;
        let raw = node.storage.device(name);
        node.vm.sh(format!("{}; raw={raw}; {script}; sync", activate(&raw))).await.context(name)?;
        let before = node.vm.sh(format!("sha256sum <{raw}")).await?;
        node.kubelet_folders(&made).await?;
        refused(name, retry(|| node.csi.stage(&made)).await, Code::FailedPrecondition, "contains")?;
        ensure!(node.vm.sh(format!("sha256sum <{raw}")).await? == before, "{name}: bytes were changed");
        retry(|| node.csi.delete(&made.id)).await?;
    }
    for (name, script, words) in [
        ("pvc-lost-header", "blkdiscard -z -l 1M $raw", "no LUKS2 header"),
        ("pvc-erased-keys", "cryptsetup luksErase -q $raw", "no key opens"),
    ] {
        let ask = Ask::mount(name, "ext4").encrypted(KEY);
        let made = retry(|| node.csi.create(&ask)).await?;
        open(node, &made).await?;
        close(node, &made).await?;
        let raw = node.storage.device(name);
        // It is deactivated after the unstage.
        node.vm.sh(format!("for i in $(seq 100); do test -b {raw} || break; sleep 0.1; done")).await?;
        node.vm.sh(format!("{}; raw={raw}; {script}; sync", activate(&raw))).await.context(name)?;
        let before = node.vm.sh(format!("sha256sum <{raw}")).await?;
        node.kubelet_folders(&made).await?;
        refused(name, retry(|| node.csi.stage(&made)).await, Code::FailedPrecondition, words)?;
        ensure!(node.vm.sh(format!("sha256sum <{raw}")).await? == before, "{name}: bytes were changed");
        retry(|| node.csi.delete(&made.id)).await?;
    }
    node.expect_empty().await
}

/// Values that a volume cannot have.
async fn rejected(node: &Node) -> Result<()> {
    let other = Ask::block("pvc-other").parameter("encryption", "luks1");
    refused("another value", node.csi.create(&other).await, Code::InvalidArgument, "luks2")?;
    let encrypted = Ask::block("pvc-encrypted").encrypted(KEY);
    let encrypted = retry(|| node.csi.create(&encrypted)).await?;
    let plain_now = Ask::block("pvc-encrypted");
    refused("the same without encryption", node.csi.create(&plain_now).await, Code::AlreadyExists, "encryption")?;
    retry(|| node.csi.delete(&encrypted.id)).await?;
    node.expect_empty().await
}
