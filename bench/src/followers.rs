//! Very many who follow one program's output.

use std::{io::Read, sync::Barrier, thread, time::Duration};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    figures::promise,
    server::{Connection, Server},
};

const MANY: usize = 1000;
const ROUNDS: usize = 3;
/// What it writes on standard output.
const BYTES: usize = 2000 * 100;
/// Waits to be told to begin, writes a line each millisecond, and says on standard error how many milliseconds that took.
const PROGRAM: &str = r"
import sys, time
sys.stdin.readline()
begin = time.monotonic()
for _ in range(2000):
    sys.stdout.write('x' * 99 + '\n')
    sys.stdout.flush()
    time.sleep(0.001)
sys.stderr.write(str((time.monotonic() - begin) * 1000))
";

/// A program's own time when nobody follows its output, and when very many do.
pub(crate) fn followers(server: &Server) -> Result<()> {
    let mut connection = server.connect()?;
    let id = connection.sandbox()?;
    let (mut alone, mut followed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(run(server, &mut connection, &id, 0)?);
        followed.push(run(server, &mut connection, &id, MANY)?);
    }
    connection.ask("DELETE", &format!("/v1/sandboxes/{id}"), &Value::Null)?;
    let (alone, followed) = (median(alone), median(followed));
    println!("\nA program that writes 2000 lines, one each millisecond; every follower gets every byte");
    println!("{:<28}{alone:>10.0} ms", "nobody follows");
    println!("{:<28}{followed:>10.0} ms", format!("{MANY} follow"));
    promise("followed / alone", followed / alone, 1.1, true);
    Ok(())
}

fn run(server: &Server, connection: &mut Connection, id: &str, followers: usize) -> Result<f64> {
    let request = json!({"cmd": ["python3", "-c", PROGRAM], "background": true, "stdin_stream": true});
    let begun = connection.ask("POST", &format!("/v1/sandboxes/{id}/exec"), &request)?;
    let execution = begun["id"].as_str().context("an id")?;
    let all_there = Barrier::new(followers + 1);
    thread::scope(|scope| {
        let follow = || {
            let stream = server.begin(&format!("/v1/executions/{execution}/output?follow=true"));
            all_there.wait();
            let mut body = Vec::new();
            stream?.read_to_end(&mut body)?;
            let length = body.len() - body.windows(4).position(|window| window == b"\r\n\r\n").context("a head")? - 4;
            if length == BYTES { Ok(()) } else { bail!("a follower got {length} bytes of {BYTES}") }
        };
        let threads = (0..followers)
            .map(|_| thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, follow))
            .collect::<std::io::Result<Vec<_>>>()?;
        all_there.wait();
        connection.send_input(execution, b"go\n")?;
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })?;
    loop {
        let record = connection.ask("GET", &format!("/v1/executions/{execution}"), &Value::Null)?;
        if record["status"] == "running" {
            thread::sleep(Duration::from_millis(10));
            continue;
        }
        let mut stream = server.begin(&format!("/v1/executions/{execution}/output?stream=stderr"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, milliseconds) = answer.split_once("\r\n\r\n").context("a body")?;
        return milliseconds.trim().parse().with_context(|| format!("the program says {milliseconds:?}, its record is {record}"));
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
