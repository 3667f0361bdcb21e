//! "Is 42 online?", asked of all members, for one user or many at once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use clarion_protocol::{
    NodeName, Uid,
    control::{self, Answer, Control},
};
use futures_util::future::join_all;
use serde::Serialize;

use super::{Shared, View};

/// How much of one question is users' ids, so that it fits into a message of any bus.
const QUESTION_BYTES: usize = 16 * 1024;
/// How many users one question is about.
const QUESTION_USERS: usize = 500;

/// A user's connections, in the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Online {
    /// How many there are.
    pub connections: u64,
    /// Where they are: only nodes that have some, by name.
    pub nodes: Vec<(NodeName, u64)>,
    /// Some member did not answer in time, or this node is too new to know them all: there may be more.
    pub partial: bool,
}

impl Shared {
    /// Asks about many in few questions, all at once. Members among `silent` are not waited for, and those that do not
    /// answer now are added to it.
    pub(super) async fn online(&self, users: &[Uid], silent: &mut BTreeSet<NodeName>) -> Vec<Online> {
        let view = self.view.borrow().clone();
        let expected: BTreeSet<_> = view.others().difference(silent).cloned().collect();
        let parts: Vec<_> = parts(users).collect();
        let all = join_all(parts.iter().map(|part| self.online_part(&view, part, &expected))).await;
        let mut found = Vec::with_capacity(users.len());
        for (part, missing) in all {
            silent.extend(missing);
            found.extend(part);
        }
        let partial = view.others().intersection(silent).next().is_some() || !view.settled;
        found.iter_mut().for_each(|online| online.partial = partial);
        found
    }

    /// One question's users, and who did not answer it.
    async fn online_part(
        &self,
        view: &View,
        users: &[Uid],
        expected: &BTreeSet<NodeName>,
    ) -> (Vec<Online>, BTreeSet<NodeName>) {
        let mut counts = BTreeMap::from([(view.me.clone(), self.connections_of(users.iter().map(Uid::as_str)))]);
        let mut silent = BTreeSet::new();
        if !expected.is_empty() {
            let question = Control::Online {
                users: users.iter().map(|user| user.as_str().to_owned()).collect(),
                instance: self.instance.clone(),
            };
            match self.ask(&control::subject(control::CONTROL), &question, expected).await {
                Ok(answers) => {
                    silent = answers.silent;
                    for (node, answer) in answers.given {
                        match self.counts(&answer, users.len()) {
                            Some(connections) => drop(counts.insert(node, connections)),
                            None => drop(silent.insert(node)),
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "nobody can be asked who is online");
                    silent.clone_from(expected);
                }
            }
        }
        let of = |at: usize| -> Online {
            let on = |(node, all): (&NodeName, &Vec<u64>)| (all[at] > 0).then(|| (node.clone(), all[at]));
            let nodes: Vec<_> = counts.iter().filter_map(on).collect();
            Online { connections: nodes.iter().map(|(_, connections)| connections).sum(), nodes, partial: false }
        };
        ((0..users.len()).map(of).collect(), silent)
    }

    fn counts(&self, answer: &Bytes, users: usize) -> Option<Vec<u64>> {
        match self.read_answer(answer)? {
            Answer::Online { connections } if connections.len() == users => Some(connections),
            _ => None,
        }
    }

    /// How many connections of each are here.
    pub(super) fn connections_of<'a>(&self, users: impl Iterator<Item = &'a str>) -> Vec<u64> {
        users.map(|user| self.here.connections_of(user) as u64).collect()
    }
}

/// Cuts users into what goes into one question each.
fn parts(mut users: &[Uid]) -> impl Iterator<Item = &[Uid]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |user: &&Uid| {
            bytes += user.as_str().len() + 3;
            bytes <= QUESTION_BYTES
        };
        let count = users.iter().take(QUESTION_USERS).take_while(fits).count();
        let (part, rest) = users.split_at(count);
        users = rest;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_users_go_into_few_questions() {
        let users = |count: usize, bytes: usize| -> Vec<_> {
            (0..count).map(|n| Uid::parse(&format!("{n:0bytes$}")).unwrap()).collect()
        };
        let sizes = |users: &[Uid]| parts(users).map(<[Uid]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&users(1_001, 4)), [500, 500, 1]);
        assert_eq!(sizes(&users(100, 240)), [67, 33]);
        assert_eq!(sizes(&[]), [0; 0]);
    }
}
