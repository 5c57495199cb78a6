//! The driver behind the socket.

mod call;
mod clean;
mod connect;
mod volume;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_client::ControllerClient;
use quarry_proto::csi::v1::node_client::NodeClient;
use tonic::transport::Channel;

use self::call::{Attempts, Manner, NOT_READY, Refused};
use self::volume::{Thing, Volume};
use crate::phase::Abilities;
use crate::system::{Failure, Kind, Place, Retries, System};
use crate::{Phase, Plan};

/// Makes one call of a service, with its repetitions.
macro_rules! ask {
    ($client:expr, $call:ident, $message:expr, $attempts:expr) => {{
        let client = &$client;
        let call = |request| {
            let mut client = client.clone();
            async move { client.$call(request).await }
        };
        $attempts.call($message, call).await
    }};
}
use ask;

/// The driver's name and version, as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// For example `local.csi.quarry.dev`.
    pub name: String,
    /// The vendor's version.
    pub version: String,
}

/// A connected driver.
pub(crate) struct Driver {
    pub(crate) identity: Identity,
    pub(crate) abilities: Abilities,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    node_id: String,
    /// Where the volumes must be accessible.
    topology: Option<csi::Topology>,
    plan: Plan,
    manner: Manner,
    /// The IDs of the volumes that existed before the run, if the driver lists volumes. They are never
    /// touched.
    existing: BTreeSet<String>,
    /// The IDs that the driver has given to volumes and snapshots of this run.
    given: Mutex<BTreeSet<String>>,
}

impl System for Driver {
    type Volume = Volume;

    fn kind(&self) -> Kind {
        Kind::Driver
    }

    fn volume(&self, place: Place) -> Volume {
        Volume::new(place)
    }

    fn has(&self, _: Phase) -> bool {
        true
    }

    async fn perform(&self, phase: Phase, volume: &mut Volume, retries: &mut Retries) -> Result<(), Failure> {
        let mut attempts = Attempts::measured(&self.manner, retries);
        self.perform_with(phase, volume, &mut attempts).await
    }

    async fn settle(&self, _: Phase, _: &mut [Volume]) -> anyhow::Result<()> {
        Ok(())
    }

    async fn clean(&self, volume: &mut Volume) -> Vec<String> {
        self.clean_up(volume).await
    }
}

impl Driver {
    /// Accepts the ID of something that the driver says it made for us, once.
    fn accept(&self, thing: &mut Thing, id: String, what: &str) -> Result<(), Failure> {
        let strange = |code: &str, message: String| {
            Err(Failure { code: code.to_owned(), message: format!("{message}; it is left alone") })
        };
        // Not ours unless it passes both checks.
        *thing = Thing::default();
        if id.is_empty() {
            return strange("NO_ID", format!("the driver returned a {what} without an ID"));
        }
        if self.existing.contains(&id) {
            return strange("FOREIGN_ID", format!("the driver returned {id} for a new {what}, which existed before"));
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if !given.insert(id.clone()) {
            return strange("SAME_ID", format!("the driver returned {id} for two names"));
        }
        thing.id = Some(id);
        Ok(())
    }
}
