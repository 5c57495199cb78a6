//! A `quarry controller` in a virtual node.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use quarry_vm::{Command, Guest, Process};

use crate::cluster::{AGENTS, CERTIFICATES, PATIENCE, eventually};
use crate::csi::Csi;
use crate::node::{self, BINARY, FAULTS};

/// A controller that runs in the controllers' machine.
pub struct Controller {
    pub csi: Csi,
    guest: Guest,
    number: u16,
    arguments: String,
    process: Option<Process>,
}

impl Controller {
    /// Starts a controller in a machine and waits until it serves.
    pub async fn start(guest: Guest, number: u16, arguments: &str) -> Result<Self> {
        let mut controller = Self {
            csi: Csi::new(guest.clone(), socket(number)),
            guest,
            number,
            arguments: arguments.to_owned(),
            process: None,
        };
        controller.serve().await?;
        Ok(controller)
    }

    /// Where it serves CSI.
    pub fn socket(&self) -> String {
        socket(self.number)
    }

    /// Starts it again and waits until it serves.
    pub async fn serve(&mut self) -> Result<()> {
        let number = self.number;
        let script = format!(
            "mkdir -p /run/quarry {FAULTS} && export QUARRY_FAULT_DIR={FAULTS} && exec {BINARY} --log debug controller \
             --agents {AGENTS} --certificates {CERTIFICATES} --endpoint unix://{} --http 127.0.0.1:{} \
             --view {} {} >>{} 2>&1",
            self.socket(),
            self.port(),
            self.view(),
            self.arguments,
            self.log()
        );
        self.process =
            Some(self.guest.spawn(Command::sh(script).detach().timeout(Duration::from_secs(24 * 3600))).await?);
        if let Err(error) = node::serving(&self.csi).await {
            bail!("controller {number}: {error:#}\n{}", self.log_tail().await);
        }
        Ok(())
    }

    fn port(&self) -> u16 {
        9820 + self.number
    }

    fn log(&self) -> String {
        format!("/var/log/controller-{}.log", self.number)
    }

    /// The view socket.
    pub fn view(&self) -> String {
        format!("/run/quarry/view-{}.sock", self.number)
    }

    /// The end of its log.
    pub async fn log_tail(&self) -> String {
        let tail = self.guest.sh(format!("tail -n 60 {}", self.log())).await;
        tail.unwrap_or_else(|error| format!("no log: {error:#}"))
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the controller was not started")?;
        process.signal(9).await?;
        process.wait().await.map(drop)
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the controller was not started")?;
        process.signal(15).await?;
        let ended = tokio::time::timeout(PATIENCE, process.wait()).await.context("the controller did not end")??;
        ensure!(ended.exit.success(), "the controller ended with {}\n{}", ended.exit, self.log_tail().await);
        Ok(())
    }

    /// The sum of the samples of `/metrics` whose lines start with this.
    pub async fn metric(&self, begins: &str) -> Result<f64> {
        node::metric(&self.guest, self.port(), begins).await
    }

    /// How many nodes it is connected to.
    pub async fn up(&self) -> Result<usize> {
        Ok(self.metric("quarry_nodes{state=\"up\"}").await?.round() as usize)
    }

    /// Waits until it is connected to exactly this many nodes.
    pub async fn connected(&self, nodes: usize) -> Result<Duration> {
        let what = format!("{nodes} nodes are connected");
        let took = eventually(&what, PATIENCE, || async { Ok(self.up().await? == nodes) }).await;
        match took {
            Ok(took) => Ok(took),
            Err(error) => bail!("{error:#}\n{}", self.log_tail().await),
        }
    }
}

fn socket(number: u16) -> String {
    format!("/run/quarry/controller-{number}.sock")
}
