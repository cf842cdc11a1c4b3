//! Connections to ports, over the real agent.

use std::{net::Ipv4Addr, num::NonZeroU16, time::Duration};

use caisson_core::{Error, SandboxId};
use caisson_engine::PortStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::World;

const PATIENCE: Duration = Duration::from_secs(20);

/// A connection and what it has met. The agents of these tests share the host's loopback interface.
async fn connected(world: &World, id: SandboxId) -> (PortStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
    let (stream, accepted) = tokio::join!(world.engine.connect_port(id, port), listener.accept());
    (stream.unwrap(), accepted.unwrap().0)
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_ends_pass_both_ways() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let (near, far) = connected(&world, id).await;
    let (up, down) = (noise(3_000_001), noise(5_000_003));
    let ((mut near_reader, mut near_writer), (mut far_reader, mut far_writer)) = (tokio::io::split(near), far.into_split());
    let exchange = async {
        tokio::join!(
            async {
                near_writer.write_all(&up).await.unwrap();
                near_writer.shutdown().await.unwrap();
            },
            async {
                far_writer.write_all(&down).await.unwrap();
                far_writer.shutdown().await.unwrap();
            },
            async {
                let mut all = Vec::new();
                far_reader.read_to_end(&mut all).await.unwrap();
                assert!(all == up);
            },
            async {
                let mut all = Vec::new();
                near_reader.read_to_end(&mut all).await.unwrap();
                assert!(all == down);
            },
        )
    };
    timeout(PATIENCE, exchange).await.unwrap();
    // One direction may end long before the other.
    let (mut near, mut far) = connected(&world, id).await;
    near.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, far.read(&mut [0; 9])).await.unwrap().unwrap(), 0);
    far.write_all(b"still here").await.unwrap();
    drop(far);
    let mut all = Vec::new();
    timeout(PATIENCE, near.read_to_end(&mut all)).await.unwrap().unwrap();
    assert_eq!(all, b"still here");
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_the_other_hears_of_it() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let (near, mut far) = connected(&world, id).await;
    drop(near);
    assert!(matches!(timeout(PATIENCE, far.read(&mut [0; 9])).await.unwrap(), Ok(0) | Err(_)));
    // A program that closes with something unread breaks the connection off. What it said before is heard, and that this is not all.
    let (mut near, mut far) = connected(&world, id).await;
    near.write_all(b"unread").await.unwrap();
    assert_eq!(far.peek(&mut [0; 9]).await.unwrap(), 6);
    far.write_all(b"said").await.unwrap();
    drop(far);
    let mut all = Vec::new();
    timeout(PATIENCE, near.read_to_end(&mut all)).await.unwrap().unwrap_err();
    assert_eq!(all, b"said");
    // So does a sandbox that ends.
    let (mut near, _far) = connected(&world, id).await;
    world.engine.destroy(id).await.unwrap();
    timeout(PATIENCE, near.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err();
    let port = NonZeroU16::new(1).unwrap();
    assert!(matches!(world.engine.connect_port(id, port).await.unwrap_err(), Error::Gone { .. }));
    world.engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_listens_that_is_said() {
    let world = World::new().await;
    let id = world.sandbox().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
    drop(listener);
    let error = world.engine.connect_port(id, port).await.unwrap_err();
    assert!(error.code() == "port_not_listening" && error.to_string().contains(&port.to_string()), "{error}");
    assert_eq!(world.engine.connect_port(SandboxId::random(), port).await.unwrap_err().code(), "not_found");
    world.engine.shutdown().await;
}
