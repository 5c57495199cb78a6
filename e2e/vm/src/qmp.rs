//! QEMU's control connection: one command at a time, and the events in between.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Mutex, broadcast, mpsc};

/// How long QEMU may take to answer one command.
const ANSWER: Duration = Duration::from_secs(60);

/// A control connection over QEMU's standard input and output: it needs no socket, whose path could be too long.
pub(crate) struct Qmp {
    connection: Mutex<Connection>,
    events: broadcast::Sender<Value>,
}

struct Connection {
    writer: ChildStdin,
    replies: mpsc::Receiver<Value>,
}

impl Qmp {
    /// Greets QEMU and leaves the negotiation mode.
    pub(crate) async fn connect(writer: ChildStdin, reader: ChildStdout) -> Result<Self> {
        let (reply, mut replies) = mpsc::channel(16);
        let (events, _) = broadcast::channel(64);
        let publish = events.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
                if message.get("event").is_some() {
                    // There may be no receiver for an event.
                    let _ = publish.send(message);
                } else if reply.send(message).await.is_err() {
                    break;
                }
            }
        });
        let greeting = tokio::time::timeout(ANSWER, replies.recv()).await.context("QEMU did not greet in time")?;
        greeting.filter(|message| message.get("QMP").is_some()).context("QEMU ended before it greeted")?;
        let qmp = Self { connection: Mutex::new(Connection { writer, replies }), events };
        qmp.call("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs one command and returns its result.
    ///
    /// # Errors
    /// When QEMU refuses it, does not answer in time, or has ended.
    pub(crate) async fn call(&self, command: &str, arguments: Value) -> Result<Value> {
        let mut connection = self.connection.lock().await;
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        let exchange = async {
            connection.writer.write_all(line.as_bytes()).await.context("QEMU has ended")?;
            connection.replies.recv().await.context("QEMU has ended")
        };
        let mut answer = tokio::time::timeout(ANSWER, exchange)
            .await
            .with_context(|| format!("QEMU did not answer {command} within {ANSWER:?}"))?
            .with_context(|| format!("QEMU did not answer {command}"))?;
        if let Some(error) = answer.get("error") {
            let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
            bail!("QEMU rejected {command} {arguments}: {why}");
        }
        answer.get_mut("return").map(Value::take).with_context(|| format!("QEMU's answer to {command} says nothing"))
    }

    /// Runs a command and waits for the event that says it is done.
    pub(crate) async fn call_until(
        &self,
        command: &str,
        arguments: Value,
        deadline: Duration,
        done: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let mut events = self.events.subscribe();
        self.call(command, arguments).await?;
        tokio::time::timeout(deadline, async {
            loop {
                match events.recv().await {
                    Ok(event) if done(&event) => return Ok(()),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => {
                        return Err(anyhow!("QEMU ended while {command} was under way"));
                    }
                }
            }
        })
        .await
        .with_context(|| format!("{command} was not done within {deadline:?}"))?
    }

    /// Waits until the machine is in one of these states.
    pub(crate) async fn wait_status(&self, wanted: &[&str], deadline: Duration) -> Result<()> {
        tokio::time::timeout(deadline, async {
            loop {
                let status = self.call("query-status", json!({})).await?;
                let status = status.get("status").and_then(Value::as_str).unwrap_or_default();
                if wanted.contains(&status) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .with_context(|| format!("the machine was not {} within {deadline:?}", wanted.join(" or ")))?
    }
}
