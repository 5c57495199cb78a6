//! The clean-up: undoes what was or may have been done, and nothing else.

use super::{Attempts, Driver, Volume};
use crate::system::{Failure, Retries};

impl Driver {
    /// Undoes everything in the reverse order. A volume that cannot be unpublished or unstaged is not deleted.
    pub(super) async fn clean_up(&self, volume: &mut Volume) -> Vec<String> {
        let mut left = Vec::new();
        let name = volume.place.name.clone();
        let mut note = |what: &str, id: &Option<String>, failure: Failure| {
            let id = id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
            left.push(format!("{what} {name}{id}: {}: {}", failure.code, failure.message));
        };
        // The ID of something whose creation failed late: asking again by name returns it, as CSI demands.
        self.find(volume).await;

        if volume.restored.id.is_some()
            && let Err(failure) = self.delete(&mut volume.restored, &mut self.attempts(&mut Retries::new())).await
        {
            note("the restored volume of", &volume.restored.id, failure);
        }
        if volume.snapshot.id.is_some()
            && let Err(failure) =
                self.delete_snapshot(&mut volume.snapshot, &mut self.attempts(&mut Retries::new())).await
        {
            note("the snapshot of", &volume.snapshot.id, failure);
        }
        if let Err(failure) = self.release(volume).await {
            note("volume", &volume.volume.id, failure);
        }
        for (what, thing) in [
            ("the restored volume of", &volume.restored),
            ("the snapshot of", &volume.snapshot),
            ("volume", &volume.volume),
        ] {
            if thing.uncertain {
                let message = "its creation failed, and it may exist nevertheless".to_owned();
                note(what, &thing.id, Failure { code: "UNCERTAIN".to_owned(), message });
            }
        }
        left
    }

    /// Patience begins anew with each step.
    fn attempts<'a>(&'a self, retries: &'a mut Retries) -> Attempts<'a> {
        Attempts::cleaning(&self.manner, retries)
    }

    async fn find(&self, volume: &mut Volume) {
        let mut retries = Retries::new();
        // What fails again stays uncertain with every code: an earlier call may have worked.
        if volume.volume.uncertain {
            let _ = self.create(volume, &mut self.attempts(&mut retries)).await;
        }
        if volume.snapshot.uncertain {
            let _ = self.snapshot(volume, false, &mut self.attempts(&mut retries)).await;
        }
        if volume.restored.uncertain {
            let _ = self.restore(volume, &mut self.attempts(&mut retries)).await;
        }
    }

    async fn release(&self, volume: &mut Volume) -> Result<(), Failure> {
        if volume.volume.id.is_none() {
            return Ok(());
        }
        let mut retries = Retries::new();
        if volume.published {
            self.unpublish(volume, &mut self.attempts(&mut retries)).await?;
        }
        if volume.staged {
            self.unstage(volume, &mut self.attempts(&mut retries)).await?;
        }
        if volume.attached {
            self.detach(volume, &mut self.attempts(&mut retries)).await?;
        }
        self.delete(&mut volume.volume, &mut self.attempts(&mut retries)).await
    }
}
