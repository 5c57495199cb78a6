//! The machine has no encrypted devices: the scenario `encrypted` tests those.

use std::path::Path;
use std::sync::Arc;

use quarry_encryption::{Header, Layer};
use quarry_exec::Secret;
use quarry_volume::{Error, Result};
use uuid::Uuid;

use super::Process;
use crate::kernel::{Encryptions, HeldDevice};

fn impossible<T>() -> Result<T> {
    Err(Error::host("the machine in memory has no encrypted devices"))
}

#[async_trait::async_trait]
impl Encryptions for Process {
    fn header(&self, _raw: &Path) -> Result<Header> {
        impossible()
    }

    async fn format_encrypted(&self, _raw: &Path, _uuid: Uuid, _name: &str, _passphrase: &Secret) -> Result<()> {
        impossible()
    }

    async fn set_header_uuid(&self, _raw: &Path, _uuid: Uuid, _name: &str) -> Result<()> {
        impossible()
    }

    async fn open_encrypted(&self, _raw: &Path, _name: &str, _passphrase: &Secret, _discards: bool) -> Result<()> {
        impossible()
    }

    async fn resize_encrypted(&self, _raw: &Path, _name: &str) -> Result<()> {
        impossible()
    }

    async fn close_encrypted(&self, _layer: &Layer) -> Result<()> {
        impossible()
    }

    fn remove_unfinished(&self, _raw: &Path, _name: &str) -> Result<()> {
        impossible()
    }

    fn hold_encrypted(&self, _raw: &Path, _name: &str) -> Result<Arc<dyn HeldDevice>> {
        impossible()
    }
}
