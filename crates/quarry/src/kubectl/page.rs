//! `kubectl quarry page`: forwards a local port to the controller's page.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use quarry_exec::Attended;

use super::cluster::{Access, Component};

/// The options of `kubectl quarry page`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The port of this host; 0: any free one. Default: the one in the pod.
    #[arg(long, value_name = "NUMBER")]
    port: Option<u16>,
    /// Only print the address.
    #[arg(long)]
    no_open: bool,
}

/// Forwards the port until Ctrl+C, and opens the page in a browser if there is one.
///
/// # Errors
/// There is no controller, it serves no page, or kubectl cannot be run.
pub(super) fn open(access: &Access, args: &Args) -> anyhow::Result<ExitCode> {
    let pod = access.pod(&Component::Controller)?;
    let namespace = format!("--namespace={}", pod.namespace);
    let kubectl = access.kubectl().args(["get", "pod"]).arg(&pod.name).arg(&namespace);
    let arguments = access.answer(kubectl.arg("--output=jsonpath={.spec.containers[*].args}"), "read the pod")?;
    let served = port_of(&arguments).with_context(|| {
        format!("the controller in pod {} serves no page: set controller.pagePort in the values of the chart", pod.name)
    })?;
    let kubectl = access.kubectl().arg("port-forward").arg(namespace).arg("--address=127.0.0.1");
    let ports = format!("{}:{served}", args.port.unwrap_or(served));
    let code = kubectl.arg(format!("pod/{}", pod.name)).arg(ports).lines(|line| {
        if let Some(address) = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()) {
            let url = format!("http://{address}/");
            let _ = writeln!(std::io::stdout(), "{url} (Ctrl+C ends it)");
            if !args.no_open {
                show(&url);
            }
        }
    })?;
    Ok(ExitCode::from(code))
}

/// The port of the page, among the arguments of a pod's containers as jsonpath prints them.
fn port_of(arguments: &str) -> Option<u16> {
    let mut all = arguments.split('"');
    all.find_map(|argument| argument.strip_prefix("--page=")?.rsplit_once(':')?.1.parse().ok())
}

/// Opens the address in a browser, if this is a graphical desktop.
fn show(url: &str) {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if (is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")) && quarry_exec::missing_tools(&["xdg-open"]).is_empty() {
        // The address is printed, so it can be opened by hand if no browser starts.
        let _ = Attended::new("xdg-open").arg(url).detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_an_argument_of_the_controller() {
        let arguments = r#"["controller","--node-pods=a=b,c=d","--page=127.0.0.1:9814"] ["--csi-address=/run/c"]"#;
        assert_eq!(port_of(arguments), Some(9814));
        assert_eq!(port_of(r#"["controller","--page=[::1]:9814"]"#), Some(9814));
        assert_eq!(port_of(r#"["controller","--pages=127.0.0.1:9814"]"#), None);
    }
}
