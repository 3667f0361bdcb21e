//! How far partitions go, asked once for all who want to know at the same time.

use std::{collections::BTreeSet, sync::Arc};

use clarion_bus::{LogError, log::Top};
use clarion_protocol::Partition;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Recovery;

type Answer = Result<Arc<[(Partition, Top)]>, LogError>;

/// Questions that have not been sent yet. Whoever asks joins the next one, never the one that is on its way: its answer may
/// be older than the question.
#[derive(Default)]
pub(super) struct Tops {
    next: Mutex<Option<Question>>,
    /// One question is on its way at a time.
    asking: tokio::sync::Mutex<()>,
}

struct Question {
    partitions: BTreeSet<Partition>,
    answer: watch::Receiver<Option<Answer>>,
}

impl Tops {
    /// The tops of these partitions, in their order, read after this was called. Cancel safe.
    pub(super) async fn ask(&self, recovery: &Arc<Recovery>, partitions: &[Partition]) -> Result<Vec<Top>, LogError> {
        let (mut answer, first) = {
            let mut next = self.next.lock();
            match &mut *next {
                Some(question) => {
                    question.partitions.extend(partitions.iter().cloned());
                    (question.answer.clone(), None)
                }
                None => {
                    let (sender, answer) = watch::channel(None);
                    *next = Some(Question { partitions: partitions.iter().cloned().collect(), answer: answer.clone() });
                    (answer, Some(sender))
                }
            }
        };
        if let Some(sender) = first {
            // A task of its own: the first who asked may go away, and the others wait for the same answer.
            let recovery = recovery.clone();
            recovery.runtime.clone().spawn(async move {
                let _ = sender.send(Some(recovery.tops.send(&recovery).await));
            });
        }
        let answer = answer.wait_for(Option::is_some).await.map(|answer| answer.clone());
        let lost = || LogError::NotNow("the question was dropped".to_owned());
        let all = answer.ok().flatten().ok_or_else(lost)??;
        let top =
            |wanted: &Partition| all.iter().find(|(partition, _)| partition == wanted).map(|(_, top)| top.clone());
        partitions.iter().map(top).collect::<Option<_>>().ok_or_else(lost)
    }

    async fn send(&self, recovery: &Recovery) -> Answer {
        let _turn = self.asking.lock().await;
        let partitions: Vec<_> =
            self.next.lock().take().map(|question| question.partitions.into_iter().collect()).unwrap_or_default();
        let tops = recovery.log()?.tops(&partitions).await?;
        recovery.metrics.asked.inc();
        Ok(partitions.into_iter().zip(tops).collect())
    }
}
