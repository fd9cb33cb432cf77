//! A proxy in front of a real HTTP server that breaks chosen exchanges: bodies cut off, replies lost, 503 instead of an answer.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one exchange.
#[derive(Debug, Clone, Copy)]
pub enum Trick {
    /// The connection ends after this many bytes of the answer, its head included.
    Cut(usize),
    /// The server gets the request and answers, and nobody hears it.
    LoseReply,
    /// The server never sees the request.
    Unavailable,
    /// Nor this one: somebody else answers, with these status line, headers and body.
    Answer(&'static str),
}

/// Listens on a port of its own. One request a connection, so that each can be chosen.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub port: u16,
    tricks: Arc<Mutex<Vec<(&'static str, Trick)>>>,
}

impl Proxy {
    /// In front of a port of 127.0.0.1; ends with the runtime.
    pub async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), tricks: Arc::default() };
        let shared = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = shared.clone();
                // Ends with the connection, whichever way that is.
                tokio::spawn(async move { shared.serve(client, server).await.ok() });
            }
        });
        proxy
    }

    /// The next request with this method meets this trick. Several are taken in order.
    pub fn arm(&self, method: &'static str, trick: Trick) {
        self.tricks.lock().unwrap().push((method, trick));
    }

    /// Tricks that nothing met yet.
    pub fn left(&self) -> usize {
        self.tricks.lock().unwrap().len()
    }

    async fn serve(&self, mut client: TcpStream, server: u16) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|w| w == b"\r\n\r\n") {
            if client.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let trick = {
            let mut tricks = self.tricks.lock().unwrap();
            let armed = tricks.iter().position(|(method, _)| head.starts_with(format!("{method} ").as_bytes()));
            armed.map(|at| tricks.remove(at).1)
        };
        let (mut from_client, mut to_client) = client.into_split();
        let instead = match trick {
            Some(Trick::Unavailable) => {
                Some("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            }
            Some(Trick::Answer(answer)) => Some(answer),
            _ => None,
        };
        if let Some(instead) = instead {
            to_client.write_all(instead.as_bytes()).await?;
            // Taken in for a moment, so that the answer is read before the connection is reset.
            let drain = async { while from_client.read(&mut [0; 65536]).await.is_ok_and(|n| n > 0) {} };
            tokio::time::timeout(std::time::Duration::from_millis(200), drain).await.ok();
            return Ok(());
        }
        let (mut from_server, mut to_server) = TcpStream::connect(("127.0.0.1", server)).await?.into_split();
        let line = head.windows(2).position(|w| w == b"\r\n").unwrap() + 2;
        to_server.write_all(&head[..line]).await?;
        to_server.write_all(b"Connection: close\r\n").await?;
        to_server.write_all(&head[line..]).await?;
        let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let done = match trick {
            Some(Trick::Cut(bytes)) => tokio::io::copy(&mut from_server.take(bytes as u64), &mut to_client).await,
            Some(Trick::LoseReply) => tokio::io::copy(&mut from_server, &mut tokio::io::sink()).await,
            _ => tokio::io::copy(&mut from_server, &mut to_client).await,
        };
        up.abort();
        done.map(|_| ())
    }
}
