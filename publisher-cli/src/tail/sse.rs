//! The event-stream door: one channel by its path, many by `/events`.

use std::time::Duration;

use clarion_protocol::publication::PublicationBody;
use reqwest::header;
use tokio::time::timeout;

use super::{
    End, Request,
    event::{Cursor, Parser},
    show::Show,
};
use crate::{
    context::Context,
    failure::{Failure, Kind, chain},
    via::{Http, answer},
};

/// After how much silence a stream counts as dead: a broker sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of a refusal that are read.
const REFUSAL_BYTES: usize = 64 * 1024;

/// Follows until the stream ends.
pub(super) async fn follow(
    context: &Context,
    http: &Http,
    request: &Request,
    cursor: &mut Cursor,
    show: &mut Show,
) -> Result<End, Failure> {
    let mut get = http.stream(request.url.clone()).header(header::ACCEPT, "text/event-stream");
    if !cursor.last_event_id.is_empty() {
        get = get.header("last-event-id", &cursor.last_event_id);
    }
    let mut response = match timeout(context.timeout, get.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_builder() => return Err(http.broken(&error)),
        Ok(Err(error)) => return Ok(lost(http.broken(&error).message, false, None)),
        Err(_) => return Ok(lost(format!("no answer within {:?}", context.timeout), false, None)),
    };
    if response.status() != 200 {
        return refused(request, &mut response).await;
    }
    context.output.note(&format!("listening to {} ({})", request.what, request.url));
    let mut parser = Parser::default();
    let mut events = Vec::new();
    // What the broker asked of an earlier connection is of no concern to this one.
    cursor.retry = None;
    loop {
        let chunk = match timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(lost("the stream has ended".to_owned(), true, cursor.retry)),
            Ok(Err(error)) => return Ok(lost(chain(&error.without_url()), true, cursor.retry)),
            Err(_) => return Ok(lost(format!("nothing came for {SILENCE:?}"), true, None)),
        };
        if parser.feed(&chunk, cursor, &mut events).is_err() {
            return Err(Failure::internal("an event is longer than any message can be"));
        }
        for event in events.drain(..) {
            let flow = match event.name.as_str() {
                "" => show_event(request, &event.data, show)?,
                "gap" => {
                    let told = String::from_utf8_lossy(&event.data).into_owned();
                    context.output.note(&format!("messages are missing here: {told}"));
                    super::Flow::Continue(())
                }
                // Where the stream stands, and what other devices have read: nothing to show.
                _ => super::Flow::Continue(()),
            };
            if flow.is_break() {
                keep(request, &event.id)?;
                return Ok(End::Done);
            }
        }
        // Once for all that came together, after it was shown: what is shown again after a crash is better than what never is.
        keep(request, &cursor.last_event_id)?;
    }
}

/// Keeps the cursor in the file that was named for it, by replacing the file as a whole.
fn keep(request: &Request, cursor: &str) -> Result<(), Failure> {
    let Some(file) = request.resume.as_ref().filter(|_| !cursor.is_empty()) else { return Ok(()) };
    let new = file.with_extension("new");
    let written = std::fs::write(&new, format!("{cursor}\n")).and_then(|()| std::fs::rename(&new, file));
    written.map_err(|error| {
        Failure::usage(format!("--resume {}: the cursor cannot be kept: {error}", file.display()))
            .remedy("a file in a directory that can be written to")
    })
}

fn lost(reason: String, stood: bool, after: Option<Duration>) -> End {
    End::Lost { reason, stood, after }
}

/// Shows an event of one channel, whose data is the payload, or of many, whose data says which.
fn show_event(request: &Request, data: &[u8], show: &mut Show) -> Result<super::Flow, Failure> {
    if let Some(channel) = &request.channel {
        return show.message(channel, data);
    }
    let strange = || Failure::internal("an event of several channels does not say what it is");
    let body: PublicationBody<'_> = serde_json::from_slice(data).map_err(|_| strange())?;
    let payload = body.payload().map_err(|_| strange())?;
    show.message(body.channel.as_deref().ok_or_else(strange)?, &payload)
}

/// What any status but 200 means: overload and a lost bus pass, all else stays.
async fn refused(request: &Request, response: &mut reqwest::Response) -> Result<End, Failure> {
    let after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = answer::retry_after(after);
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > REFUSAL_BYTES {
            break;
        }
    }
    let failure = answer::failure(request.url.as_str(), response.status().as_u16(), &body);
    match failure.kind {
        Kind::Unavailable | Kind::Internal => Ok(lost(failure.message, false, after)),
        Kind::Usage | Kind::Refused | Kind::Closed => Err(failure),
    }
}
