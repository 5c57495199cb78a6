//! A virtual node's network card: its address, and its link, which can be cut while the host keeps control of
//! the guest.
//!
//! The card is plugged in once the guest answers, and is not saved with its state: every restored guest has
//! the same cards, and a node without a network has none.

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{PLUG, Vm};
use crate::agent::Command;
use crate::machine::LAN_SLOT;
use crate::network::{Cable, Network};

/// The card's name in the guest.
const CARD: &str = "lan0";

/// Where a machine is on its network.
pub(super) struct Lan {
    network: Network,
    number: u8,
    /// Also while the machine is off.
    up: bool,
    cable: Option<Cable>,
}

impl Lan {
    pub(super) fn new(network: Network, number: u8) -> Self {
        Self { network, number, up: true, cable: None }
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }
}

/// Fails unless a node can have this number.
pub(super) fn check(number: u8) -> Result<()> {
    if matches!(number, 1..=254) {
        return Ok(());
    }
    bail!("a virtual node's number on its network is 1 to 254, not {number}")
}

impl Vm {
    /// Cuts the node's link, or restores it; returns when the guest has noticed. Its peers get no
    /// notification, only silence. Commands, [`Self::connect`] and [`crate::HOST`] use another path and keep
    /// working. A link that is cut stays cut when the node boots again.
    ///
    /// # Errors
    /// When the node is on no network, or the guest does not notice.
    pub async fn link(&mut self, up: bool) -> Result<()> {
        self.lan()?.up = up;
        let Some(qemu) = &self.qemu else { return Ok(()) };
        qemu.qmp.call("set_link", json!({ "name": "lan", "up": up })).await?;
        self.wait_for_link(up).await
    }

    /// Gives the node another address. Two nodes that have the same one disturb each other, as anywhere.
    ///
    /// # Errors
    /// When the node is on no network, the number is not 1 to 254, or the guest cannot do so.
    pub async fn set_address(&mut self, number: u8) -> Result<()> {
        check(number)?;
        let lan = self.lan()?;
        lan.number = number;
        let up = lan.up;
        if self.qemu.is_none() {
            return Ok(());
        }
        // The card's own address goes with the other; it can only be changed while the card is down.
        self.guest
            .sh(format!(
                "ip link set dev {CARD} down && ip address flush dev {CARD} && \
                 ip link set dev {CARD} address {} && ip address add {}/24 dev {CARD} && ip link set dev {CARD} up",
                Network::card(number),
                Network::address(number)
            ))
            .await
            .with_context(|| format!("cannot give {} the address {}", self.name, Network::address(number)))?;
        self.wait_for_link(up).await
    }

    /// Exchanges the addresses of two nodes of one network; at no time has one address two holders.
    ///
    /// # Errors
    /// As [`Self::set_address`].
    pub async fn swap_addresses(&mut self, other: &mut Self) -> Result<()> {
        let (ours, theirs) = (self.lan()?.number, other.lan()?.number);
        if other.qemu.is_some() {
            other.guest.sh(format!("ip link set dev {CARD} down && ip address flush dev {CARD}")).await?;
        }
        self.set_address(theirs).await?;
        other.set_address(ours).await
    }

    /// Plugs the network card in and sets it up, when the node is on a network.
    pub(super) async fn join_network(&mut self) -> Result<()> {
        let (Some(lan), Some(qemu)) = (&mut self.lan, &self.qemu) else { return Ok(()) };
        let cable = lan.network.cable()?;
        let socket = json!({ "type": "unix", "path": cable.name(), "abstract": true });
        lan.cable = Some(cable);
        let (number, up) = (lan.number, lan.up);
        let backend = json!({ "type": "stream", "id": "cable", "server": false, "addr": socket });
        qemu.qmp.call("netdev_add", backend).await.context("cannot connect the network cable")?;
        let card = Network::card(number);
        let device =
            json!({ "driver": "virtio-net-pci", "id": "lan", "netdev": "cable", "bus": LAN_SLOT, "mac": card });
        qemu.qmp.call("device_add", device).await.context("cannot plug the network card in")?;
        if !up {
            qemu.qmp.call("set_link", json!({ "name": "lan", "up": false })).await?;
        }
        // Found by its own address, for udev gives it a name of its choice. `ip` waits until the kernel is done with
        // the card, and udev is done with it after that.
        let script = format!(
            "find() {{ for card in /sys/class/net/*; do read -r mac <$card/address && test $mac = {card} && break; done; }}
             until find 2>/dev/null; do sleep 0.02; done
             ip link show >/dev/null
             udevadm settle
             find
             ip link set dev ${{card##*/}} name {CARD}"
        );
        let named = self.guest.check(Command::sh(script).timeout(PLUG)).await;
        named.context("the guest's network card cannot be set up")?;
        self.set_address(number).await
    }

    fn lan(&mut self) -> Result<&mut Lan> {
        let name = &self.name;
        self.lan.as_mut().with_context(|| format!("{name} is on no network; see Config::network"))
    }

    /// Waits until the guest has noticed that its card has a carrier, or has none.
    async fn wait_for_link(&self, up: bool) -> Result<()> {
        let state = if up { 1 } else { 0 };
        let script = format!("until test $(cat /sys/class/net/{CARD}/carrier) = {state}; do sleep 0.02; done");
        let noticed = self.guest.check(Command::sh(script).timeout(PLUG)).await;
        noticed.map(drop).with_context(|| format!("{} does not notice its link", self.name))
    }
}
