//! Messages between server, launcher and parked processes, launch plans among them: whatever comes is understood or refused.
#![no_main]

use std::fmt::Debug;

use caisson_launcher::{
    plan::{Plan, Setup},
    protocol::{CommitOrder, Ended, Failure, Launched, LayerOrder, Tag, decode, encode, processors, split},
};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|message: &[u8]| -> Corpus {
    let Ok((tag, seq, body)) = split(message) else { return Corpus::Reject };
    assert_eq!(Tag::descriptors_of(message), tag.descriptors());
    match tag {
        Tag::Setup => drop(survives::<Setup>(tag, seq, body)),
        Tag::Launch | Tag::LaunchOnDisk => {
            let count = processors(body);
            if let Some(plan) = survives::<Plan>(tag, seq, body) {
                assert_eq!(count, Ok(plan.processors), "launcher and sandbox read the same figure");
                for step in &plan.steps {
                    assert!(step.subject().len() <= body.len() + 32, "a subject is no content");
                }
            }
        }
        Tag::Commit => drop(survives::<CommitOrder>(tag, seq, body)),
        Tag::Layer => drop(survives::<LayerOrder>(tag, seq, body)),
        Tag::Launched => drop(survives::<Launched>(tag, seq, body)),
        Tag::Failed => drop(survives::<Failure>(tag, seq, body)),
        Tag::Ended => drop(survives::<Ended>(tag, seq, body)),
        Tag::Destroy | Tag::IdsMapped | Tag::Ready | Tag::Parked | Tag::MapIds | Tag::Views => {}
    }
    Corpus::Keep
});

/// A message may have bytes behind what it says; what it says, it says again.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(tag: Tag, seq: u64, body: &[u8]) -> Option<T> {
    let value: T = decode(body).ok()?;
    let again = encode(tag, seq, &value);
    let (tag_again, seq_again, body) = split(&again).expect("we read what we write");
    assert_eq!((tag_again, seq_again), (tag, seq));
    assert_eq!(decode::<T>(body).as_ref(), Ok(&value));
    Some(value)
}
