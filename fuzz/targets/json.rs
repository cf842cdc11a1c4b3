//! The JSON of the agent protocol, in both directions: what can be read can be written, and is read as the same.
#![no_main]

use std::fmt::Debug;

use caisson_wire::{
    AgentConfig, Copied, ExecExit, ExecStart, FileStat, Found, Grep, Grepped, Health, Listing, Made, Refusal, Started, Unpacked,
    WatchEvent, Which, path,
};
use libfuzzer_sys::{Corpus, fuzz_target};
use serde::{Serialize, de::DeserializeOwned};

// The first byte chooses the type, the rest is its text.
fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((kind, text)) = input.split_first() else { return Corpus::Reject };
    match kind {
        b'a' => drop(survives::<AgentConfig>(text)),
        b'h' => drop(survives::<Health>(text)),
        b's' => drop(survives::<ExecStart>(text)),
        b'S' => drop(survives::<Started>(text)),
        b'e' => drop(survives::<ExecExit>(text)),
        b'w' => drop(survives::<Which>(text)),
        b'f' => drop(survives::<Found>(text)),
        b'l' => drop(survives::<Listing>(text)),
        b'g' => drop(survives::<Grep>(text)),
        b'G' => drop(survives::<Grepped>(text)),
        b'c' => drop(survives::<Copied>(text)),
        b'u' => drop(survives::<Unpacked>(text)),
        b'm' => drop(survives::<Made>(text)),
        b'W' => drop(survives::<WatchEvent>(text)),
        b'r' => drop(survives::<Refusal>(text)),
        b't' => {
            let stat = survives::<FileStat>(text);
            // The name in it, when it is one, is one in the same words again.
            if let Some(name) = stat.and_then(|stat| path::decode(&stat.path)) {
                assert_eq!(path::decode(&path::encode(&name)), Some(name));
            }
        }
        _ => return Corpus::Reject,
    }
    Corpus::Keep
});

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(text).ok()?;
    let written = serde_json::to_vec(&value).expect("wire types are plain data");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("we read what we write"), value);
    Some(value)
}
