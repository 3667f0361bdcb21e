//! Following over the bus itself.

use std::ops::ControlFlow;

use clarion_bus::{Delivery, InterestId, Link};
use clarion_protocol::{Address, Interest};

use super::show::Show;
use crate::{
    args::TailArgs,
    context::Context,
    failure::Failure,
    via::{
        BusTarget,
        bus::{Bus, Event},
    },
};

/// Follows until enough came; with `--once`, until the link is lost. The bus itself connects again.
pub(super) async fn follow(
    context: &Context,
    target: &BusTarget,
    args: &TailArgs,
    show: &mut Show,
) -> Result<(), Failure> {
    let mut bus = Bus::connect(context, target).await?;
    let mut standing = Vec::with_capacity(args.channels.len());
    for interest in &args.channels {
        standing.push((interest.clone(), bus.subscribe(interest.clone()).await?));
    }
    let what = args.channels.iter().map(Interest::to_string).collect::<Vec<_>>().join(", ");
    context.output.note(&format!("listening to {what} ({})", bus.shown()));
    let outcome = read(context, &mut bus, &standing, args.once, show).await;
    bus.close().await;
    outcome
}

async fn read(
    context: &Context,
    bus: &mut Bus,
    standing: &[(Interest, InterestId)],
    once: bool,
    show: &mut Show,
) -> Result<(), Failure> {
    let mut link = bus.link();
    // The state of now is known; each change from here on is told.
    link.mark_unchanged();
    loop {
        let event = tokio::select! {
            event = bus.event() => event,
            _ = link.changed() => {
                let state = link.borrow_and_update().clone();
                tell(context, &state, once)?;
                continue;
            }
        };
        match event {
            Some(Event::Gap) => context.output.note("messages may be missing here"),
            Some(Event::Deliveries(deliveries)) => {
                for delivery in deliveries {
                    if show_once(standing, &delivery, show)?.is_break() {
                        return Ok(());
                    }
                }
            }
            None => return Err(Failure::internal("the bus has ended")),
        }
    }
}

fn tell(context: &Context, link: &Link, once: bool) -> Result<(), Failure> {
    match link {
        Link::Up => context.output.note("connected again"),
        Link::Down(why) => {
            let reason = why.clone().unwrap_or_else(|| "the connection to the bus was lost".to_owned());
            if once {
                return Err(Failure::unavailable(reason).remedy("without --once the connection is made again"));
            }
            context.output.note(&format!("{reason}; trying again"));
        }
    }
    Ok(())
}

/// Shows a message once, although a copy comes for each interest that matches: only the most specific one's counts.
fn show_once(
    standing: &[(Interest, InterestId)],
    delivery: &Delivery,
    show: &mut Show,
) -> Result<super::Flow, Failure> {
    let Address::Channel(channel) = &delivery.address else { return Ok(ControlFlow::Continue(())) };
    let matching = standing.iter().filter(|(interest, _)| interest.matches(channel.as_str()));
    let chosen = matching.max_by(|(a, _), (b, _)| a.specificity(b));
    match chosen {
        Some((_, id)) if delivery.interests.contains(id) => show.message(channel.as_str(), &delivery.message.payload),
        _ => Ok(ControlFlow::Continue(())),
    }
}
