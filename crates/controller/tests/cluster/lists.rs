//! Lists in pages.

use prost::Message as _;
use quarry_proto::csi::v1 as csi;
use quarry_proto::csi::v1::controller_server::Controller as _;
use quarry_volume::{Condition, StorageId, Volume, VolumeId};
use tonic::Request;

use crate::support::World;

/// A client accepts 4 MiB by default.
#[tokio::test]
async fn a_page_of_volume_health_fits_a_message_even_if_every_problem_is_as_long_as_possible() {
    let world = World::new(&[("a", 100), ("b", 100)]);
    for (name, node) in &world.nodes {
        let mut volumes = node.volumes.lock().unwrap();
        for number in 0..3000 {
            let id = VolumeId { storage: StorageId::of(name), node: name.clone(), volume: format!("v-{number:04}") };
            let (condition, problem) = match number % 2 {
                0 => (Condition::Healthy, String::new()),
                _ => (Condition::Degraded, "x".repeat(2048)),
            };
            volumes.insert(id.volume.clone(), Volume { condition, problem, ..Volume::new(id) });
        }
    }
    let (cluster, service) = world.controller().await;
    let (all, _) = cluster.volumes(None, usize::MAX).unwrap();
    let ill = all.iter().filter(|volume| volume.condition != Condition::Healthy);
    let expected: Vec<_> = ill.map(|volume| volume.id.to_string()).collect();
    assert_eq!(expected.len(), 3000);
    for (max_entries, pages) in [(0, 2), (1000, 3), (700, 5)] {
        let (mut listed, mut starting_token) = (Vec::new(), String::new());
        for number in 1.. {
            let request = csi::ControllerListVolumeHealthRequest { max_entries, starting_token, ..Default::default() };
            let answer = service.controller_list_volume_health(Request::new(request)).await.unwrap().into_inner();
            assert!(answer.encoded_len() < 4 << 20, "{} bytes", answer.encoded_len());
            listed.extend(answer.entries.into_iter().map(|entry| entry.volume_id));
            starting_token = answer.next_token;
            if starting_token.is_empty() {
                assert_eq!(number, pages, "pages of {max_entries}");
                break;
            }
        }
        assert_eq!(listed, expected);
    }
}
