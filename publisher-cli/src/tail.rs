//! `tail`: follows channels over any door, or over the bus, and comes back when a connection ends.

mod bus;
mod event;
mod show;
mod sse;
mod ws;

use std::{ops::ControlFlow, path::PathBuf, time::Duration};

use clarion_protocol::{Channel, Interest};
use url::Url;

use self::show::Show;
use crate::{
    args::{Door, TailArgs},
    backoff::Backoff,
    context::Context,
    failure::Failure,
    token::Claims,
    via::{Http, Via, http::path_of},
};

/// How following ended, where it was no failure for ever.
#[derive(Debug)]
enum End {
    /// All that was asked for has come, or the broker said goodbye for good.
    Done,
    /// The connection was lost, or did not come about.
    Lost {
        /// Why.
        reason: String,
        /// Whether it stood before: then the next attempt follows soon.
        stood: bool,
        /// How long the broker asks to stay away.
        after: Option<Duration>,
    },
}

/// Stops as the count of `Show` says.
type Flow = ControlFlow<()>;

/// What a broker is asked for.
#[derive(Debug)]
struct Request {
    url: Url,
    door: Door,
    /// What the messages are shown to be from where they do not say so themselves; `None` where they do.
    channel: Option<String>,
    /// What is followed, for people.
    what: String,
    /// Where the cursor is kept.
    resume: Option<PathBuf>,
}

/// Follows what the arguments name.
pub(crate) async fn run(context: &Context, args: TailArgs) -> Result<(), Failure> {
    let several =
        args.me || args.channels.len() > 1 || args.channels.iter().any(|interest| interest.as_channel().is_none());
    let mut show = Show::new(context.output, several, args.count);
    match &context.via {
        Via::Bus(_) if args.me => Err(Failure::usage("--me is a door of the broker; a bus knows no users")
            .remedy("the channel itself, such as `clarion tail users/42 broadcast`")),
        Via::Bus(_) if args.door.is_some() => {
            Err(Failure::usage("--door chooses a door of the broker, and --via names a bus")
                .remedy("leave --door out, or name a broker with --via http://…"))
        }
        Via::Bus(_) if args.resume.is_some() || args.since.is_some() || args.last.is_some() => {
            Err(Failure::usage("--resume, --since and --last ask a broker, and --via names a bus")
                .remedy("name a broker with --via http://…"))
        }
        Via::Bus(target) => bus::follow(context, target, &args, &mut show).await,
        Via::Http(base) => follow(context, base, &args, &mut show).await,
    }
}

async fn follow(context: &Context, base: &Url, args: &TailArgs, show: &mut Show) -> Result<(), Failure> {
    let mut request = request(base, args, context.secrets.token.as_deref())?;
    let http = Http::new(context, base)?;
    let mut backoff = Backoff::default();
    let mut cursor = event::Cursor::default();
    begin(args, &mut request, &mut cursor)?;
    loop {
        let end = match request.door {
            Door::Ws => ws::follow(context, &request, show).await?,
            Door::Sse => sse::follow(context, &http, &request, &mut cursor, show).await?,
        };
        let (reason, stood, after) = match end {
            End::Done => return Ok(()),
            End::Lost { reason, stood, after } => (reason, stood, after),
        };
        if args.once {
            return Err(Failure::unavailable(reason).remedy("without --once the connection is made again"));
        }
        if stood {
            backoff.reset();
        }
        let pause = backoff.next(after);
        context.output.note(&format!("{reason}; trying again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

/// Where it begins in what is logged: where the file says, or else where the arguments do.
fn begin(args: &TailArgs, request: &mut Request, cursor: &mut event::Cursor) -> Result<(), Failure> {
    if let Some(file) = &args.resume {
        match std::fs::read_to_string(file) {
            Ok(text) => text.trim().clone_into(&mut cursor.last_event_id),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("--resume {}: {error}", file.display());
                return Err(Failure::usage(message).remedy("a file that can be read, or one that is not there yet"));
            }
        }
        request.resume = Some(file.clone());
    }
    if cursor.last_event_id.is_empty() {
        let mut query = request.url.query_pairs_mut();
        if let Some(since) = &args.since {
            query.append_pair("since", since);
        }
        if let Some(last) = args.last {
            query.append_pair("last", &last.to_string());
        }
        drop(query);
        if request.url.query() == Some("") {
            request.url.set_query(None);
        }
    }
    Ok(())
}

/// Chooses the door, and the URL behind which it is.
fn request(base: &Url, args: &TailArgs, token: Option<&str>) -> Result<Request, Failure> {
    let in_log = args.resume.is_some() || args.since.is_some() || args.last.is_some();
    if in_log && args.door == Some(Door::Ws) {
        return Err(Failure::usage("--resume, --since and --last follow an event stream, which tells cursors")
            .remedy("--door sse, or leave --door out"));
    }
    let door = args.door.or(in_log.then_some(Door::Sse));
    if args.me {
        return Ok(mine(base, door.filter(|_| args.door.is_some()), token));
    }
    let what = args.channels.iter().map(Interest::to_string).collect::<Vec<_>>().join(", ");
    if let [interest] = &*args.channels
        && let Some(channel) = interest.as_channel()
    {
        let url = path_of(base, channel.segments());
        return Ok(Request {
            url,
            door: door.unwrap_or(Door::Ws),
            channel: Some(channel.to_string()),
            what,
            resume: None,
        });
    }
    if args.door == Some(Door::Ws) {
        return Err(Failure::usage("--door ws follows one channel: a WebSocket's URL is its channel")
            .remedy("--door sse, which follows many channels and patterns"));
    }
    Ok(Request { url: events(base, &args.channels), door: Door::Sse, channel: None, what, resume: None })
}

/// The two channels of `--me`. At `/me` no message says which of them it came by, so that the stream of several channels
/// is taken instead, unless a door was asked for, or the token does not tell whose it is: then the broker is to judge it.
fn mine(base: &Url, door: Option<Door>, token: Option<&str>) -> Request {
    let what = "your own channel and broadcast".to_owned();
    let user = token.and_then(Claims::of).and_then(|claims| claims.user());
    match (door, user) {
        (None, Some(user)) => {
            let channels = [Channel::of_user(&user), Channel::broadcast()].map(|channel| Interest::from(&channel));
            Request { url: events(base, &channels), door: Door::Sse, channel: None, what, resume: None }
        }
        (door, _) => {
            let (url, channel) = (path_of(base, ["me"]), Some("me".to_owned()));
            Request { url, door: door.unwrap_or(Door::Ws), channel, what, resume: None }
        }
    }
}

/// The event stream of several channels and patterns.
fn events(base: &Url, interests: &[Interest]) -> Url {
    let mut url = path_of(base, ["events"]);
    url.query_pairs_mut().extend_pairs(interests.iter().map(|interest| ("channel", interest.to_string())));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_for(channels: &[&str], door: Option<Door>) -> Result<Request, Failure> {
        let channels = channels.iter().map(|channel| channel.parse().unwrap()).collect();
        let args =
            TailArgs { channels, me: false, door, once: false, count: None, resume: None, since: None, last: None };
        request(&"http://h:1/".parse().unwrap(), &args, None)
    }

    #[test]
    fn who_follows_his_own_learns_which_of_the_two_it_was() {
        // {"sub":"4 2"}
        let token = Some("h.eyJzdWIiOiI0IDIifQ.s");
        let base = "http://h:1/".parse().unwrap();
        let both = mine(&base, None, token);
        assert_eq!(both.url.as_str(), "http://h:1/events?channel=users%2F4+2&channel=broadcast");
        assert_eq!((both.door, both.channel), (Door::Sse, None));
        for (door, token, expected) in [(Some(Door::Sse), token, Door::Sse), (None, Some("t.t.t"), Door::Ws)] {
            let request = mine(&base, door, token);
            assert_eq!((request.door, request.url.path(), request.channel.as_deref()), (expected, "/me", Some("me")));
        }
    }

    #[test]
    fn the_door_fits_what_is_followed() {
        for (channels, door, expected, url) in [
            (&["a/b c"][..], None, Door::Ws, "http://h:1/a/b%20c"),
            (&["a"], Some(Door::Sse), Door::Sse, "http://h:1/a"),
            (&["a/**"], None, Door::Sse, "http://h:1/events?channel=a%2F**"),
            (&["a", "b&c"], None, Door::Sse, "http://h:1/events?channel=a&channel=b%26c"),
        ] {
            let request = request_for(channels, door).unwrap();
            assert_eq!((request.door, request.url.as_str()), (expected, url));
            assert_eq!(request.channel.is_some(), channels.len() == 1 && !channels[0].contains('*'));
        }
        for channels in [&["a", "b"][..], &["a/*"]] {
            assert!(request_for(channels, Some(Door::Ws)).unwrap_err().remedy.unwrap().contains("--door sse"));
        }
    }
}
