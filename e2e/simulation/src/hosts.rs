//! The programs on the simulated hosts: the real controller and the real agent, wired up as in the binary.

use std::sync::Arc;
use std::time::Duration;

use quarry_agent::AgentService;
use quarry_controller::{
    Abandoned, Cluster, ControllerService, Election, Fate, NoKubernetes, Nodes, Parts, RosterSource, Timing,
};
use quarry_node::Host;
use quarry_pool::Pool;
use quarry_transport::metrics::Metrics;
use quarry_transport::tls;
use quarry_volume::{Error, Result, VolumeId};
use tokio_util::sync::CancellationToken;

use crate::net::{Closed, SimulatedDial, accept, secured};
use crate::world::{KEY, Shared};
use crate::{client, copies, world};

/// For how long a machine is silent before Kubernetes calls it not ready.
const GRACE: Duration = Duration::from_secs(40);
/// For how long it is gone before it is gone for good.
const FOR_GOOD: Duration = Duration::from_secs(300);

/// What all hosts of a run have in common.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) shared: Shared,
    pub(crate) closed: Closed,
    /// The certificates of the controllers and of the nodes; none where the run goes without.
    pub(crate) certificates: Option<(tls::Source, tls::Source)>,
    /// How connections are made and kept.
    pub(crate) timing: Timing,
}

/// The agent of whichever node this address serves now, until the host crashes.
pub(crate) async fn agent(common: Common, seat: usize) -> turmoil::Result {
    let host = {
        let world = common.shared.lock();
        let seat = &world.seats[seat];
        let node = &world.nodes[seat.node];
        let pool: Arc<dyn Pool> = Arc::new(node.storage.pool.clone());
        Host::in_pod(&node.name, vec![pool], &seat.pod)
    };
    let service = AgentService::new(Arc::new(host));
    let wires = accept(common.closed, common.shared).await?;
    let (metrics, stop) = (Metrics::new(), CancellationToken::new());
    match common.certificates {
        Some((_, source)) => {
            let acceptor = tls::Acceptor::new(source, tls::Refusals::new());
            quarry_agent::serve(secured(wires, acceptor), service, &metrics, stop).await?;
        }
        None => quarry_agent::serve(wires, service, &metrics, stop).await?,
    }
    Ok(())
}

/// One controller and its sidecars, until the host crashes.
pub(crate) async fn controller(common: Common, replica: usize, roster: RosterSource) -> turmoil::Result {
    let Common { shared, closed, certificates, timing } = common;
    let connector = certificates.map(|(source, _)| tls::Connector::new(source));
    let surroundings = Arc::new(Surroundings { shared: shared.clone(), replica });
    let parts = Parts {
        dial: Arc::new(SimulatedDial { shared: shared.clone(), closed, connector }),
        timing,
        nodes: surroundings.clone(),
        election: surroundings,
        claims: Arc::new(NoKubernetes),
        only: None,
    };
    let cluster = Cluster::follow(roster, parts, CancellationToken::new());
    let service = ControllerService::new(cluster, KEY);
    let stories = shared.lock().stories.len();
    for story in 0..stories {
        tokio::spawn(copies::tell(shared.clone(), service.clone(), replica, story));
    }
    let claims = shared.lock().claims.len();
    for claim in 0..claims {
        tokio::spawn(client::look_after(shared.clone(), service.clone(), replica, claim));
    }
    client::audit(shared, service, replica).await;
    Ok(())
}

/// What one controller learns of the cluster around it.
struct Surroundings {
    shared: Shared,
    replica: usize,
}

#[async_trait::async_trait]
impl Election for Surroundings {
    async fn fence(&self) -> Result<u64> {
        let world = self.shared.lock();
        world.lease.beliefs[self.replica]
            .ok_or_else(|| Error::unavailable(format!("{} decides", world::replica_name(world.lease.holder))))
    }
}

#[async_trait::async_trait]
impl Nodes for Surroundings {
    async fn fate(&self, node: &str) -> Fate {
        let world = self.shared.lock();
        let Some(node) = world.nodes.iter().find(|known| known.name == node) else { return Fate::Unknown };
        match node.down.map(|since| world.now.saturating_sub(since)) {
            Some(down) if node.gone && down > FOR_GOOD => Fate::Gone,
            Some(down) if down > GRACE => Fate::NotReady(down - GRACE),
            _ => Fate::Ready,
        }
    }

    async fn report_abandoned(&self, id: &VolumeId, _why: Abandoned) {
        self.shared.lock().note(format_args!("abandoned: {id}"));
    }
}
