//! The methods of JSON-RPC and their parameters, which are always given by name.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use clarion_protocol::{Channel, MessageId, NodeName, Publication, Tags, Uid, publication::PublicationBody};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json, value::RawValue};

use super::{Failure, INVALID_PARAMS, METHOD_NOT_FOUND};
use crate::{
    answer::Problem,
    api, docs, inbox,
    members::Online,
    node::{Caller, Node, Via},
};

/// The methods, for whoever asks for another one.
const METHODS: &str = "publish, push, broadcast, batch, read, unread, info, online, disconnect, rpc.discover";

/// The method that a batch may call many times at once.
pub(super) const ONLINE: &str = "online";
/// What is read where there are no parameters.
const NOTHING: &str = "{}";

/// A message for a user.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Push<'a> {
    user: UserId,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    base64: Option<Cow<'a, str>>,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    id: Option<MessageId>,
}

/// What a user has read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HasRead {
    user: UserId,
    #[serde(default)]
    up_to: Option<String>,
    #[serde(default)]
    ids: Option<Vec<MessageId>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfUser {
    user: UserId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

/// Users are often numbers in backends; a number counts as its decimal.
#[derive(Deserialize)]
#[serde(untagged)]
enum UserId {
    Text(String),
    Number(u64),
}

impl UserId {
    fn uid(&self) -> Result<Uid, Failure> {
        let uid = match self {
            Self::Text(text) => Uid::parse(text),
            Self::Number(number) => Uid::parse(&number.to_string()),
        };
        uid.map_err(|error| params(&format!("user: {error}")))
    }
}

/// Keeps a `null` that is present apart from a member that is absent.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Does one call.
pub(super) async fn dispatch(
    node: &Arc<Node>,
    caller: &Caller,
    method: &str,
    given: Option<&RawValue>,
) -> Result<Value, Failure> {
    if method == ONLINE {
        return online_all(node, &[given], &mut BTreeSet::new()).await.remove(0);
    }
    let given = given.map_or(NOTHING, RawValue::get);
    match method {
        "publish" => publish(node, read::<PublicationBody<'_>>(given)?.publication()).await,
        "push" => push(node, read(given)?).await,
        "broadcast" => broadcast(node, read(given)?).await,
        "batch" => batch(node, caller, read(given)?).await,
        "read" => has_read(node, read(given)?).await,
        "unread" => {
            let user = read::<OfUser>(given)?.user.uid()?;
            Ok(json!(inbox::count(node, &user).await?))
        }
        "info" => Ok(info(node)),
        "rpc.discover" => Ok(docs::OPENRPC.clone()),
        "disconnect" => disconnect(node, read(given)?).await,
        other => {
            let name: String = other.chars().take(40).collect();
            let message = format!("there is no method {name:?}; there are {METHODS}");
            Err(Failure::new(METHOD_NOT_FOUND, "unknown_method", message))
        }
    }
}

fn read<'a, T: Deserialize<'a>>(given: &'a str) -> Result<T, Failure> {
    api::object(given).map_err(|error| params(&error))
}

fn params(message: &str) -> Failure {
    Failure::new(INVALID_PARAMS, "bad_params", message)
}

async fn publish(
    node: &Node,
    publication: Result<Publication, clarion_protocol::publication::BodyError>,
) -> Result<Value, Failure> {
    let publication = publication.map_err(Problem::from)?;
    let receipt = node.publish(Via::Rpc, publication).await?;
    Ok(api::taken(&receipt))
}

async fn push(node: &Node, push: Push<'_>) -> Result<Value, Failure> {
    let channel = Channel::of_user(&push.user.uid()?);
    let Push { data, text, base64, tags, id, .. } = push;
    let body = PublicationBody { channel: None, data, text, base64, tags, id };
    publish(node, body.message().map(|message| Publication { address: channel.into(), message })).await
}

async fn has_read(node: &Node, HasRead { user, up_to, ids }: HasRead) -> Result<Value, Failure> {
    let unread = inbox::mark(node, &user.uid()?, &inbox::Read { up_to, ids }).await?;
    Ok(json!({ "unread": unread }))
}

async fn broadcast(node: &Node, body: PublicationBody<'_>) -> Result<Value, Failure> {
    if body.channel.is_some() {
        return Err(params("`broadcast` has no `channel`: it goes to everybody who hears `broadcast`"));
    }
    let channel = Channel::broadcast();
    publish(node, body.message().map(|message| Publication { address: channel.into(), message })).await
}

async fn batch(node: &Node, caller: &Caller, batch: Batch<'_>) -> Result<Value, Failure> {
    let results = api::publish_all(node, caller, Via::Rpc, &batch.messages).await?;
    Ok(api::outcomes(&results))
}

/// This node and the cluster as it sees it.
fn info(node: &Node) -> Value {
    let view = node.members.view();
    json!({
        "node": node.settings.name,
        "version": env!("CARGO_PKG_VERSION"),
        "bus": node.settings.bus,
        "ring": view.peers.get(&view.me).map(|me| &me.ring),
        "members": view.peers.values().map(|peer| json!(**peer)).collect::<Value>(),
        "connections": node.hub.connections(),
    })
}

/// What `online` says of each, by their parameters. The members are asked about all of them together.
pub(super) async fn online_all(
    node: &Node,
    calls: &[Option<&RawValue>],
    silent: &mut BTreeSet<NodeName>,
) -> Vec<Result<Value, Failure>> {
    let uid = |given: Option<&RawValue>| read::<OfUser>(given.map_or(NOTHING, RawValue::get))?.user.uid();
    let uids: Vec<_> = calls.iter().copied().map(uid).collect();
    let asked: Vec<_> = uids.iter().flatten().cloned().collect();
    let found = node.members.online_all(&asked, silent).await;
    let mut found = found.iter().map(describe);
    uids.into_iter().map(|uid| uid.map(|_| found.next().expect("each has an answer"))).collect()
}

fn describe(online: &Online) -> Value {
    let on = |(node, connections): &(_, u64)| json!({ "node": node, "connections": connections });
    json!({
        "connections": online.connections,
        "nodes": online.nodes.iter().map(on).collect::<Value>(),
        "partial": online.partial,
    })
}

async fn disconnect(node: &Node, of: OfUser) -> Result<Value, Failure> {
    let disconnected = node.members.disconnect(&of.user.uid()?).await.map_err(Problem::from)?;
    Ok(json!({ "partial": disconnected.partial }))
}
