//! Builds Quarry's image, and checks a built one.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use quarry_cache::Cache;
use quarry_image::{Architecture, quarry};

/// Builds Quarry's OCI image without a registry or a container engine.
#[derive(Parser)]
#[command(version)]
enum Arguments {
    /// Builds the image and its bill of materials
    Build {
        /// The processor architecture
        #[arg(long, default_value = Architecture::of_this_host().name())]
        architecture: Architecture,
        /// The image's full name
        #[arg(long, default_value = concat!("quarry.dev/quarry:", env!("CARGO_PKG_VERSION")))]
        tag: String,
        /// The folder for quarry.tar and quarry.cdx.json
        #[arg(long, default_value = "target/image")]
        output: PathBuf,
        /// An existing statically linked program; default: build it
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// The image's date, in seconds since the epoch; default: no date
        #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
        created: Option<i64>,
    },
    /// Builds only the statically linked program and its bill of materials, `quarry` and `quarry.cdx.json`
    Program {
        /// The processor architecture
        #[arg(long, default_value = Architecture::of_this_host().name())]
        architecture: Architecture,
        /// The folder for both files
        #[arg(long, default_value = "target/program")]
        output: PathBuf,
    },
    /// Unpacks a built image and runs its programs (as root, or with user namespaces)
    Check {
        /// The image
        #[arg(default_value = "target/image/quarry.tar")]
        image: PathBuf,
    },
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Build { architecture, tag, output, binary, created } => {
            let build = quarry::Build { architecture, tag, output, binary, created };
            let built = quarry::build(&Cache::open()?, &build).context("cannot build Quarry's image")?;
            let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
            let written = &built.written;
            println!(
                "{} ({} MiB, {} MiB unpacked)",
                built.image.display(),
                mebibytes(written.compressed),
                mebibytes(written.unpacked)
            );
            println!("{}@{}", build.tag, written.digest);
            println!("{}", built.bill.display());
            Ok(())
        }
        Arguments::Program { architecture, output } => {
            let program = quarry::program(architecture, &output).context("cannot make the program")?;
            println!("{}", program.display());
            Ok(())
        }
        Arguments::Check { image } => {
            quarry_image::check(&image).with_context(|| format!("checking {}", image.display()))
        }
    }
}
