//! `quarry encryption`: changes the passphrases of encrypted volumes.

use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use quarry_encryption::{Rekeyed, rekey};
use quarry_exec::Secret;
use quarry_volume::VolumeId;
use zeroize::Zeroizing;

/// `quarry encryption …`
#[derive(Debug, clap::Args)]
pub(crate) struct Tool {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Change the passphrase of a volume that is in use on this host; needs root but no server.
    ///
    /// Standard input has two lines: the old and the new passphrase, each in base64, as a Secret has them.
    /// docs/encryption.md says how to change a Secret and its volumes without a failing pod.
    Rekey {
        /// The volume's identifier: the volumeHandle of its PersistentVolume.
        #[arg(long, value_name = "ID")]
        volume: String,
        /// Keep the old passphrase, too, until the Secret is changed. Repeat the command without this then.
        #[arg(long)]
        keep_old: bool,
    },
}

/// Runs the subcommand.
pub(crate) async fn run(tool: Tool) -> anyhow::Result<()> {
    let Action::Rekey { volume, keep_old } = tool.action;
    let id: VolumeId = volume.parse().with_context(|| format!("{volume:?} is not the identifier of a volume"))?;
    // It never moves, so no copy is left behind.
    let mut input = Zeroizing::new(String::with_capacity(4 * Secret::MAX));
    std::io::stdin().lock().read_to_string(&mut input).context("reading the passphrases from standard input")?;
    let [old, new] = passphrases(&input)?;
    let Rekeyed { added, removed } = rekey(&id.to_string(), &old, &new, keep_old).await?;
    println!("the new passphrase {}", if added { "was added" } else { "opened the volume already" });
    println!(
        "the old passphrase {}",
        match (removed, keep_old) {
            (true, _) => "was removed",
            (false, true) => "was kept (--keep-old)",
            (false, false) => "did not open the volume any more",
        }
    );
    Ok(())
}

/// The two passphrases in standard input. No error contains any part of them.
fn passphrases(input: &str) -> anyhow::Result<[Secret; 2]> {
    let lines: Vec<&str> = input.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let [old, new] = lines[..] else {
        bail!("standard input must have two lines, the old and the new passphrase in base64; it has {}", lines.len());
    };
    let decoded = |which: &str, line: &str| {
        let bytes = data_encoding::BASE64.decode(line.as_bytes());
        let Ok(bytes) = bytes else { bail!("the {which} passphrase in standard input is not valid base64") };
        ensure!(!bytes.is_empty(), "the {which} passphrase in standard input is empty");
        Ok(Secret::new(bytes))
    };
    Ok([decoded("old", old)?, decoded("new", new)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrases_are_two_lines_of_base64() {
        let [old, new] = passphrases("YQ==\r\n\nYgo=").unwrap();
        assert_eq!((old, new), (Secret::new(b"a".to_vec()), Secret::new(b"b\n".to_vec())));
        for wrong in ["", "YQ==", "YQ==\nYg==\nYw==", "hunter2!\nYg==", "YQ==\nhunter2"] {
            let error = passphrases(wrong).unwrap_err().to_string();
            assert!(error.contains("standard input") && !error.contains("hunter"), "{error}");
        }
    }
}
