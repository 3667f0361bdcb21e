//! Small records beside the logs: the last message of a subject each, in one stream.

use async_nats::jetstream::{
    context::PublishErrorKind,
    stream::{Config, StorageType},
};
use clarion_protocol::{CursorKey, Epoch, Uid, channel::RESERVED_PREFIX};
use serde::{Deserialize, Serialize};

use super::NatsLog;
use crate::log::{LogError, Marks};

/// How often a record that somebody else changed meanwhile is changed again.
const TRIES: usize = 20;
/// What a publisher says that the last sequence of a subject is; the server refuses if it is another one.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

/// What a user has read, as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    epoch: Option<Epoch>,
    up_to: u64,
    also: std::collections::BTreeSet<u64>,
}

fn away(error: impl std::fmt::Display) -> LogError {
    LogError::NotNow(error.to_string())
}

impl NatsLog {
    fn record_subject(&self, name: &str) -> String {
        format!("{RESERVED_PREFIX}.{}.records.{name}", self.prefix)
    }

    async fn records(&self) -> Result<async_nats::jetstream::stream::Stream, LogError> {
        let config = Config {
            name: format!("{}-records", self.prefix),
            subjects: vec![self.record_subject(">")],
            max_messages_per_subject: 1,
            allow_direct: true,
            storage: StorageType::File,
            description: Some("records of Clarion's nodes".to_owned()),
            ..Config::default()
        };
        self.context().await?.get_or_create_stream(config).await.map_err(away)
    }

    /// A record and its sequence, 0 where there is none.
    async fn record(&self, name: &str) -> Result<(Vec<u8>, u64), LogError> {
        let stream = self.records().await?;
        match stream.get_last_raw_message_by_subject(&self.record_subject(name)).await {
            Ok(message) => Ok((message.payload.to_vec(), message.sequence)),
            Err(error) if error.to_string().contains("no message found") => Ok((Vec::new(), 0)),
            Err(error) => Err(away(error)),
        }
    }

    /// Writes a record unless it has changed since; whether it was written.
    async fn write_record(&self, name: &str, sequence: u64, value: Vec<u8>) -> Result<bool, LogError> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(EXPECTED, sequence.to_string().as_str());
        let context = self.context().await?;
        let sent =
            context.publish_with_headers(self.record_subject(name), headers, value.into()).await.map_err(away)?;
        match sent.await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(error) => Err(away(error)),
        }
    }

    /// The key of this deployment's cursors, made by the first who asks.
    pub(super) async fn shared_key(&self) -> Result<CursorKey, LogError> {
        for _ in 0..TRIES {
            let (value, sequence) = self.record("cursor-key").await?;
            if sequence > 0 {
                let unreadable =
                    || LogError::Refused("the record of the cursors' key cannot be read: purge it".to_owned());
                return Ok(CursorKey::new(value.try_into().map_err(|_| unreadable())?));
            }
            self.write_record("cursor-key", 0, rand::random::<[u8; 16]>().to_vec()).await?;
        }
        Err(LogError::NotNow("the key of cursors changes all the time".to_owned()))
    }

    fn marks_name(user: &Uid) -> String {
        // A user's id may hold what a token cannot.
        let id: String = user.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("read.{id}")
    }

    pub(super) async fn marks_of(&self, user: &Uid) -> Result<(Marks, u64), LogError> {
        let (value, sequence) = self.record(&Self::marks_name(user)).await?;
        if sequence == 0 {
            return Ok((Marks::default(), 0));
        }
        let Written { epoch, up_to, also } = serde_json::from_slice(&value)
            .map_err(|_| LogError::Refused("a record of marks cannot be read".to_owned()))?;
        Ok((Marks { epoch, up_to, also }, sequence))
    }

    pub(super) async fn add_marks(&self, user: &Uid, read: &Marks) -> Result<Marks, LogError> {
        for _ in 0..TRIES {
            let (mut marks, sequence) = self.marks_of(user).await?;
            marks.merge(read);
            let Marks { epoch, up_to, also } = marks.clone();
            let value = serde_json::to_vec(&Written { epoch, up_to, also }).expect("numbers and text are JSON");
            if self.write_record(&Self::marks_name(user), sequence, value).await? {
                return Ok(marks);
            }
        }
        Err(LogError::NotNow("a user's marks change all the time".to_owned()))
    }
}
