//! How many tasks for connections may run, in total and for each address. A port that any client can reach makes room
//! for the newest connection, so that connections that send nothing only close one another.

use std::collections::HashMap;

use tokio::task::{AbortHandle, Id};

/// A task for a connection.
#[derive(Debug)]
struct Connection {
    peer: String,
    task: AbortHandle,
}

/// The running tasks.
#[derive(Debug)]
pub(crate) struct Room {
    /// How many may run.
    most: usize,
    /// How many of them for one address, so that no address can displace all the others.
    per_peer: usize,
    /// The oldest first.
    connections: Vec<Connection>,
}

impl Room {
    /// At least one has room in any case.
    pub(crate) fn new(most: usize, per_peer: usize) -> Self {
        Self { most: most.max(1), per_peer: per_peer.max(1), connections: Vec::new() }
    }

    /// Ends a task for a new connection from `peer` if there are too many: the oldest from that address if it has too
    /// many, and otherwise the oldest from the address with the most. Returns the address.
    pub(crate) fn make_for(&mut self, peer: &str) -> Option<String> {
        let of_peer = self.connections.iter().filter(|connection| connection.peer == peer).count();
        let loser = if of_peer >= self.per_peer {
            peer.to_owned()
        } else if self.connections.len() >= self.most {
            self.crowd()?
        } else {
            return None;
        };
        // One that has finished meanwhile needs no ending.
        let of_loser = |connection: &Connection| connection.peer == loser && !connection.task.is_finished();
        let oldest = self.connections.iter().position(of_loser)?;
        self.connections.remove(oldest).task.abort();
        Some(loser)
    }

    /// Adds a task.
    pub(crate) fn add(&mut self, peer: String, task: AbortHandle) {
        self.connections.push(Connection { peer, task });
    }

    /// Removes a task that has ended.
    pub(crate) fn ended(&mut self, id: Id) {
        self.connections.retain(|connection| connection.task.id() != id);
    }

    /// The address with the most tasks; if there are several, the one with the oldest.
    fn crowd(&self) -> Option<String> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for connection in &self.connections {
            *counts.entry(&connection.peer).or_default() += 1;
        }
        let most = counts.values().max().copied()?;
        let of_crowd = |connection: &&Connection| counts.get(connection.peer.as_str()) == Some(&most);
        self.connections.iter().find(of_crowd).map(|connection| connection.peer.clone())
    }
}
