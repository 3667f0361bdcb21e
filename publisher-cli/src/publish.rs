//! `publish`, `push` and `broadcast`: one message, or standard input a message a line.

mod input;
mod pace;
mod stream;

use bytes::Bytes;
use clarion_protocol::Channel;
use serde_json::json;

use crate::{
    args::{MessageArgs, Source},
    context::Context,
    failure::Failure,
    via::Way,
};

/// Publishes what the arguments say.
pub(crate) async fn run(context: &Context, channel: Channel, args: MessageArgs) -> Result<(), Failure> {
    if args.rate.is_some() && args.message != Source::Lines {
        return Err(Failure::usage("--rate is for many messages")
            .remedy("`-` in place of the text, which publishes standard input a message a line"));
    }
    let payload = match args.message {
        Source::Text(text) => Bytes::from(text),
        Source::File(file) => read(&file).await?,
        Source::WholeInput => input::whole().await?,
        Source::Lines => return stream::run(context, &channel, args.rate).await,
    };
    let way = Way::open(context).await?;
    let published = way.publish(&channel, payload).await;
    way.close().await;
    let id = published?;
    context.output.result(format!("published to {channel}, id {id}"), &json!({ "channel": channel.as_str(), "id": id }))
}

async fn read(file: &std::path::Path) -> Result<Bytes, Failure> {
    let bytes = tokio::fs::read(file).await.map_err(|error| {
        Failure::usage(format!("@{}: {error}", file.display()))
            .remedy("a file that can be read; text that begins with @ is written @@…")
    })?;
    Ok(bytes.into())
}
