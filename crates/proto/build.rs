//! Generates the types, clients and servers from `proto/`, with no system protoc.
//!
//! Messages with secrets get their own `Debug`, which hides them, because requests are logged.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

use prost_types::{DescriptorProto, FileDescriptorSet};

const ROOT: &str = "../../proto";
const FILES: [&str; 5] = [
    "csi/v1/csi.proto",
    "kubelet/pluginregistration/v1/api.proto",
    "quarry/agent/v1/agent.proto",
    "quarry/view/v2/view.proto",
    "quarry/volume/v1/volume.proto",
];
/// The field that `Debug` never shows.
const SECRETS: &str = "secrets";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let files = protox::compile(FILES, [ROOT])?;

    let hidden = messages_with_secrets(&files)?;
    tonic_prost_build::configure()
        // Every call of a service is answered by name: a new call does not compile until it is.
        .generate_default_stubs(false)
        // Sorted keys: printed, hashed or compared maps are always in the same order.
        .btree_map(".")
        .skip_debug(hidden.iter().map(|(package, message)| format!(".{package}.{}", message.name())))
        .compile_fds(files.clone())?;

    for package in packages(&hidden) {
        let code: String =
            hidden.iter().filter(|(of, _)| of == package).map(|(_, message)| debug_without_secrets(message)).collect();
        std::fs::write(out.join(format!("{package}.redacted.rs")), code)?;
    }
    Ok(())
}

/// Every message with a field for secrets, and its package.
fn messages_with_secrets(files: &FileDescriptorSet) -> Result<Vec<(String, DescriptorProto)>, Box<dyn Error>> {
    let mut found = Vec::new();
    for file in &files.file {
        for message in &file.message_type {
            if message.nested_type.iter().any(has_secrets) {
                return Err(format!(
                    "{}: a nested message contains secrets; extend build.rs to support it",
                    message.name()
                )
                .into());
            }
            if has_secrets(message) {
                found.push((file.package().to_owned(), message.clone()));
            }
        }
    }
    Ok(found)
}

fn has_secrets(message: &DescriptorProto) -> bool {
    message.field.iter().any(|field| field.name() == SECRETS)
}

fn packages(hidden: &[(String, DescriptorProto)]) -> Vec<&String> {
    let mut packages: Vec<_> = hidden.iter().map(|(package, _)| package).collect();
    packages.dedup();
    packages
}

/// The code of a `Debug` that shows the number of secrets and nothing else about them.
fn debug_without_secrets(message: &DescriptorProto) -> String {
    let name = message.name();
    let mut code = format!(
        "impl ::core::fmt::Debug for {name} {{\n    \
         fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
         f.debug_struct(\"{name}\")"
    );
    for field in &message.field {
        let field = field.name();
        // Writing to a String cannot fail.
        let _ = match field {
            SECRETS => {
                write!(code, ".field(\"{field}\", &::core::format_args!(\"<{{}} hidden>\", self.{field}.len()))")
            }
            _ => write!(code, ".field(\"{field}\", &self.{field})"),
        };
    }
    code.push_str(".finish()\n    }\n}\n");
    code
}
