//! The streams: one for each logged namespace, made and kept in shape.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, StorageType, Stream};
use clarion_protocol::{Address, Channel, Epoch, LogPolicy, limits, log::fnv1a};

use super::NatsLog;
use crate::log::LogError;

/// A stream and what is known of it now.
pub(super) type Known = Stream<Info>;

impl NatsLog {
    /// What the stream of a namespace is called: names may hold no dots, slashes or spaces.
    pub(super) fn stream_name(&self, namespace: &Channel) -> String {
        let escape = |c: char| match c {
            c if c.is_ascii_alphanumeric() || c == '-' => c.to_string(),
            c => format!("_{:x}_", u32::from(c)),
        };
        format!("{}-log-{}", self.prefix, namespace.as_str().chars().map(escape).collect::<String>())
    }

    fn config_of(&self, namespace: &Channel, policy: LogPolicy) -> Config {
        let subject = self.prefix.nats(&Address::Channel(namespace.clone()));
        Config {
            name: self.stream_name(namespace),
            subjects: vec![subject.clone(), format!("{subject}.>")],
            // One more than is promised: that it is there tells that more came than is kept.
            max_messages_per_subject: i64::from(policy.size) + 1,
            max_age: policy.age,
            discard: DiscardPolicy::Old,
            duplicate_window: limits::REPEAT_WINDOW.min(policy.age),
            allow_direct: true,
            storage: StorageType::File,
            republish: Some(Republish {
                source: format!("{}.>", self.prefix),
                destination: format!("{}>", self.subjects.republished),
                headers_only: false,
            }),
            description: Some("a logged namespace of Clarion".to_owned()),
            ..Config::default()
        }
    }

    /// The stream of a namespace, as it is now. Made where it is not there, and brought into shape where it differs.
    ///
    /// # Errors
    /// [`LogError::Refused`] when the server does not do what was asked of it.
    pub(super) async fn stream(&self, namespace: &Channel, policy: LogPolicy) -> Result<Known, LogError> {
        let wanted = self.config_of(namespace, policy);
        let context = self.context().await?;
        let found = match context.get_stream(&wanted.name).await {
            Ok(stream) => stream,
            Err(error) => match context.create_stream(&wanted).await {
                Ok(stream) => stream,
                Err(created) => return Err(refused(&wanted.name, &error, &created)),
            },
        };
        let found = if differs(&wanted, &found.cached_info().config).is_some() {
            let config = shaped(&wanted, &found.cached_info().config);
            context.update_stream(&config).await.map_err(|error| {
                LogError::Refused(format!("the stream `{}` cannot be brought into shape: {error}; delete it, or give the namespace another prefix", wanted.name))
            })?;
            context.get_stream(&wanted.name).await.map_err(|error| LogError::NotNow(error.to_string()))?
        } else {
            found
        };
        if let Some(setting) = differs(&wanted, &found.cached_info().config) {
            // Older servers pass over what they do not know.
            return Err(LogError::Refused(format!(
                "the NATS server has ignored `{setting}` of the stream `{}`: it must be 2.9 or newer",
                wanted.name
            )));
        }
        self.subjects.epochs.write().insert(wanted.name, epoch_of(&found));
        Ok(found)
    }
}

/// The first setting that is not as it must be.
fn differs(wanted: &Config, found: &Config) -> Option<&'static str> {
    let same = [
        ("subjects", wanted.subjects == found.subjects),
        ("max_msgs_per_subject", wanted.max_messages_per_subject == found.max_messages_per_subject),
        ("max_age", wanted.max_age == found.max_age),
        ("discard", wanted.discard == found.discard),
        ("duplicate_window", wanted.duplicate_window == found.duplicate_window),
        ("allow_direct", wanted.allow_direct == found.allow_direct),
        ("republish", wanted.republish == found.republish),
    ];
    same.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
}

/// What an operator may choose stays: storage, replicas, placement.
fn shaped(wanted: &Config, found: &Config) -> Config {
    Config {
        subjects: wanted.subjects.clone(),
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_age: wanted.max_age,
        discard: wanted.discard,
        duplicate_window: wanted.duplicate_window,
        allow_direct: wanted.allow_direct,
        republish: wanted.republish.clone(),
        ..found.clone()
    }
}

fn refused(name: &str, found: &dyn std::fmt::Display, created: &dyn std::fmt::Display) -> LogError {
    let (found, created) = (found.to_string(), created.to_string());
    let says = |word: &str| found.contains(word) || created.contains(word);
    if says("no responders") || says("not enabled") {
        let remedy = "logs need JetStream: add `jetstream { store_dir: … }` to the NATS server's configuration";
        LogError::Refused(remedy.to_owned())
    } else if says("overlap") {
        LogError::Refused(format!(
            "the stream `{name}` cannot be made, since another stream has its subjects: {created}"
        ))
    } else {
        LogError::NotNow(created)
    }
}

/// A stream's creation names its life.
pub(super) fn epoch_of(stream: &Known) -> Epoch {
    let info = stream.cached_info();
    let life = format!("{} {}", info.config.name, info.created.unix_timestamp_nanos());
    let (one, two) = (fnv1a(life.as_bytes()), fnv1a(format!("{life}.").as_bytes()));
    Epoch::parse(&format!("{one:08x}{:03x}", two & 0xfff)).expect("hexadecimal digits")
}
