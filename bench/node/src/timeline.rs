//! The life of a volume as a picture: a bar for each call, and below it the commands it ran.

use std::fmt::Write as _;

use crate::life::Step;

/// Pixels: the longest bar, the names on its left, the height of a call, and the space above the first one.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 200.0;
const ROW: f64 = 34.0;
const TOP: f64 = 40.0;

/// Calls shorter than this part of the longest one are not drawn; the table has them.
const SHORTEST: f64 = 0.02;

/// Draws the calls below each other, on one scale.
pub fn svg(title: &str, steps: &[Step]) -> String {
    let longest = steps.iter().map(|step| step.call.ended - step.call.began).fold(0.0, f64::max);
    let drawn: Vec<&Step> =
        steps.iter().filter(|step| step.call.ended - step.call.began >= SHORTEST * longest).collect();
    let scale = WIDTH / longest;
    let height = TOP + ROW * f64::from(u32::try_from(drawn.len()).unwrap_or(u32::MAX)) + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {0:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\">{title}: the time of each call in ms, and the commands in it</text>\n",
        LEFT + WIDTH + 90.0
    );
    for (row, step) in drawn.iter().enumerate() {
        let y = TOP + ROW * f64::from(u32::try_from(row).unwrap_or(u32::MAX));
        let took = step.call.ended - step.call.began;
        let width = took * scale;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"12\" fill=\"#005caf\"/>\n\
             <text x=\"{:.1}\" y=\"{:.0}\">{:.0}</text>",
            LEFT - 10.0,
            y + 16.0,
            step.name,
            LEFT + width + 6.0,
            y + 16.0,
            took * 1e3,
        );
        for command in &step.commands {
            let x = LEFT + (command.began - step.call.began) * scale;
            let width = (command.ended - command.began) * scale;
            let label = format!("{} {:.0}", command.what, (command.ended - command.began) * 1e3);
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\" fill=\"#f0b27a\"><title>{label} ms\
                 </title></rect>",
                y + 12.0
            );
            // A letter takes 6.5 pixels: a label that does not fit would cover the next one.
            if f64::from(u32::try_from(label.len()).unwrap_or(u32::MAX)) * 6.5 < width {
                let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">{label}</text>", x + 4.0, y + 23.0);
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Interval, Kind};

    fn interval(what: &str, kind: Kind, began: f64, ended: f64) -> Interval {
        Interval { what: what.to_owned(), kind, began, ended }
    }

    #[test]
    fn each_call_has_a_bar_with_its_commands() {
        let create = Step {
            name: "create",
            call: interval("CreateVolume", Kind::Call, 10.0, 10.5),
            commands: vec![interval("lvm lvcreate", Kind::Command, 10.1, 10.4)],
            readings: vec![],
            afterwards: vec![],
        };
        let call = interval("NodeGetVolumeStats", Kind::Call, 11.0, 11.001);
        let short = Step { name: "stats", call, commands: vec![], readings: vec![], afterwards: vec![] };
        let svg = svg("A volume with ext4", &[create, short]);
        assert!(
            svg.contains(">create</text>") && svg.contains("lvm lvcreate 300") && svg.contains(">500</text>"),
            "{svg}"
        );
        assert!(!svg.contains("stats"), "too short to be seen: {svg}");
    }
}
