//! The change of a passphrase is interrupted: one of the two always opens the volume, and the repeated command completes
//! the change.

use quarry_vm::PowerCut;

use super::*;
use crate::node::BINARY;
use crate::random::Random;
use crate::scenarios::steps::{read, write};

/// Fault points of the command alone: the plugin has others.
const FAULTS: &str = "/run/rekey-faults";
const OTHER_KEY: &str = "YW5vdGhlci1yYW5kb20ta2V5LTAxMjM0NTY3ODlhYmNkZWY=";

/// The scenario.
pub async fn rekeyed(context: Context) -> Passed {
    let mut node = Node::bare("encrypted-rekey", &[DISK]).await?;
    node.keep_active().await?;
    node.serve().await?;
    let ask = Ask::mount("pvc-rekey", "ext4").encrypted(KEY);
    let made = retry(|| node.csi.create(&ask)).await?;
    open(&node, &made).await?;
    write(&node, &made).await?;
    let mut keys = [KEY, OTHER_KEY];
    let mut kills = 0;
    while killed(&node, &made, keys, kills + 1).await.with_context(|| format!("killed at point {}", kills + 1))? {
        kills += 1;
        keys.reverse();
    }
    ensure!(kills > 1, "{kills} points: was quarry built with them?");
    context.count("kill points", kills);
    // The last one was not killed.
    keys.reverse();
    let cuts = if context.settings.soak { 20 } else { 4 };
    let (mut random, mut answered) = (context.random(), 0);
    for _ in 0..cuts {
        let loss = PowerCut::LoseSome(random.next());
        let done = cut(&mut node, &made, keys, loss, &mut random).await.with_context(|| format!("{loss:?}"))?;
        answered += usize::from(done);
        keys.reverse();
    }
    context.count("power cuts", cuts);
    close(&node, &made).await?;
    retry(|| node.csi.delete(&made.id)).await?;
    node.expect_empty().await?;
    Ok(format!("{kills} kill points, {cuts} power cuts, {answered} after the answer, 0 violations"))
}

/// The command that changes the passphrase.
async fn command(node: &Node, made: &Made, [old, new]: [&str; 2]) -> Result<String> {
    node.vm.write("/run/old", old.as_bytes(), 0o600).await?;
    node.vm.write("/run/new", new.as_bytes(), 0o600).await?;
    Ok(format!(
        "{{ base64 -w 0 /run/old; echo; base64 -w 0 /run/new; }} | \
         QUARRY_FAULT_DIR={FAULTS} {BINARY} encryption rekey --volume {}",
        made.id
    ))
}

/// Whether each of the two opens the volume's device.
async fn opens(node: &Node, made: &Made, keys: [&str; 2]) -> Result<[bool; 2]> {
    let raw = node.storage.device(&made.ask.name);
    let mut found = [false; 2];
    for (key, opens) in keys.iter().zip(&mut found) {
        node.vm.write("/run/tried", key.as_bytes(), 0o600).await?;
        let script =
            format!("cryptsetup open --test-passphrase --key-file /run/tried {raw} 2>/dev/null && echo yes || true");
        *opens = node.vm.sh(script).await?.trim() == "yes";
    }
    Ok(found)
}

/// The volume's contents are there, and exactly the new passphrase opens it.
async fn changed(node: &Node, made: &Made, keys: [&str; 2]) -> Result<()> {
    // While a cryptsetup of the killed command still works, it is refused.
    let command = command(node, made, keys).await?;
    let repeated = format!("for i in $(seq 60); do ({command}) && exit 0; sleep 1; done; exit 1");
    node.vm.sh(repeated).await.context("the repeated command")?;
    let opens = opens(node, made, keys).await?;
    ensure!(opens == [false, true], "after the change, the old and the new passphrase: {opens:?}");
    read(node, made).await
}

/// Kills the command at a point. Returns whether there was one.
async fn killed(node: &Node, made: &Made, keys: [&str; 2], at: usize) -> Result<bool> {
    let command = command(node, made, keys).await?;
    let script = format!(
        "rm -rf {FAULTS}; mkdir {FAULTS}; echo {at} >{FAULTS}/kill-at; ({command}) >/run/said 2>&1 || true; \
         cat {FAULTS}/killed 2>/dev/null || true"
    );
    let point = node.vm.sh(script).await?;
    node.vm.sh(format!("rm -f {FAULTS}/kill-at")).await?;
    let found = opens(node, made, keys).await?;
    ensure!(found.contains(&true), "at {point:?}, neither passphrase opens the volume");
    changed(node, made, keys).await.with_context(|| format!("at {point:?}"))?;
    Ok(!point.is_empty())
}

/// Cuts the power while the command runs. Returns whether it had ended.
async fn cut(node: &mut Node, made: &Made, keys: [&str; 2], loss: PowerCut, random: &mut Random) -> Result<bool> {
    let command = command(node, made, keys).await?;
    node.vm.sh(format!("rm -rf {FAULTS}; sync -f /var/lib/kubelet")).await?;
    let guest = node.vm.guest();
    let running = tokio::spawn(async move { guest.sh(command).await });
    tokio::time::sleep(Duration::from_millis(random.below(15_000))).await;
    let done = running.is_finished() && running.await?.is_ok();
    node.vm.power_cut_with(loss).await?;
    node.lost_power();
    node.vm.boot_again().await?;
    node.serve().await?;
    node.vm.sh(format!("lvchange -qq -ay {GROUP}")).await?;
    let found = opens(node, made, keys).await?;
    let is_right = if done { found == [false, true] } else { found.contains(&true) };
    ensure!(is_right, "answered: {done}; the old and the new passphrase: {found:?}");
    let key = if found[0] { keys[0] } else { keys[1] };
    let known = Made { ask: made.ask.clone().encrypted(key), ..made.clone() };
    open(node, &known).await?;
    read(node, made).await?;
    changed(node, made, keys).await?;
    Ok(done)
}
