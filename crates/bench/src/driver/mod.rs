//! The driver behind the socket.

mod call;
mod clean;
mod connect;
mod volume;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    given: Mutex<Given>,
}

/// What the driver has given to this run. A snapshot may have the ID of a volume.
#[derive(Debug, Default)]
struct Given {
    /// The IDs of volumes that are not deleted.
    volumes: BTreeSet<String>,
    /// The IDs of snapshots that are not deleted.
    snapshots: BTreeSet<String>,
    /// What was not accepted, and why.
    left_alone: BTreeSet<String>,
}

/// What an ID belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Volume,
    Snapshot,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
        })
    }
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
    /// Accepts the ID of something that the driver says it made for us under this name, once.
    fn accept(&self, thing: &mut Thing, id: String, made: Made, name: &str) -> Result<(), Failure> {
        let mut given = self.given();
        // Not ours unless it passes all checks.
        *thing = Thing::default();
        let strange = if id.is_empty() {
            Some(("NO_ID", format!("the driver returned a {made} without an ID for {name}")))
        } else if made == Made::Volume && self.existing.contains(&id) {
            Some(("FOREIGN_ID", format!("the driver returned {id} for a new volume, which existed before")))
        } else if !given.of(made).insert(id.clone()) {
            Some(("SAME_ID", format!("the driver returned {id} for two {made}s")))
        } else {
            None
        };
        if let Some((code, message)) = strange {
            given.left_alone.insert(format!("left alone: {message}"));
            return Err(Failure { code: code.to_owned(), message: format!("{message}; it is left alone") });
        }
        thing.id = Some(id);
        Ok(())
    }

    /// After a deletion: the driver may use the ID for something new.
    fn forget(&self, made: Made, id: &str) {
        self.given().of(made).remove(id);
    }

    /// What the driver returned for a name of this run, and what may not be this run's: it was not used, and is not
    /// removed.
    pub(crate) fn left_alone(&self) -> Vec<String> {
        self.given().left_alone.iter().cloned().collect()
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Given {
    fn of(&mut self, made: Made) -> &mut BTreeSet<String> {
        match made {
            Made::Volume => &mut self.volumes,
            Made::Snapshot => &mut self.snapshots,
        }
    }
}
