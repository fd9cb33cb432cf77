//! New configurations while jobs run, and while histories are asked for.

use super::*;

#[tokio::test(start_paused = true)]
async fn who_cannot_answer_is_asked_anew_as_a_new_configuration_has_it() {
    let world = World::new();
    let never = |name| Fake { answers_from: t("2027-01-01T00:00:00Z"), ..fake(&world, name) };
    let d = daemon(&world, loaded(vec![entry("0 2 * * *", never("a/x")), entry("0 2 * * *", never("a/y"))]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let corrected = vec![entry("0 2 * * *", fake(&world, "a/x")), entry("0 2 * * *", never("a/y"))];
    d.events.send(Event::Replace(loaded(corrected))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.said(), ["01:31:00 a/x begins"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_configuration_is_taken_over_while_jobs_run() {
    let world = World::new();
    let long = |name: &str| Fake { takes: Duration::from_secs(1800), ..fake(&world, name) };
    let d = daemon(&world, loaded(vec![entry("every 1h", long("a/stays")), entry("every 1h", long("a/goes"))]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(d.text().contains("strongroom_job_running{tenant=\"a\",job=\"goes\"} 1"));
    d.events
        .send(Event::Replace(loaded(vec![entry("every 2h", long("a/stays")), entry("every 1h", fake(&world, "a/new"))])))
        .await
        .unwrap();
    hours(2).await;
    assert_eq!(
        world.said(),
        [
            "01:30:00 a/goes begins",
            "01:30:00 a/stays begins",
            "01:31:00 a/new begins",
            "02:31:00 a/new begins",
            "03:30:00 a/stays begins"
        ]
    );
    assert!(!d.text().contains("goes"), "{}", d.text());
    assert!(d.text().contains("strongroom_jobs 2"));
    d.stop.cancel();
    d.ended.await.unwrap().unwrap();
    assert_eq!(world.said().last().unwrap(), "03:31:00 a/stays is cut short");
}

/// A drill that tells the metrics of its end.
#[derive(Debug)]
struct Drilling(crate::http::DrillMetrics);

#[async_trait]
impl Task for Drilling {
    async fn last_success(&self) -> Result<Option<Time>> {
        Ok(None)
    }

    async fn run(&self, due: Time, _: &Cancel) -> Ended {
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.0.failed(due);
        Ended::Failed
    }
}

#[tokio::test(start_paused = true)]
async fn a_drill_that_ends_after_its_job_went_leaves_no_metrics() {
    let world = World::new();
    let metrics = Metrics::new("test");
    let task: Arc<dyn Task> = Arc::new(Drilling(metrics.drill("a", "x")));
    let drill = Entry { task, ..entry("every 1h", fake(&world, "a/x (drill)")) };
    let d = daemon_with(&world, loaded(vec![drill]), metrics);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(d.text().contains("strongroom_drill_passed{tenant=\"a\",job=\"x\"} 0"), "{}", d.text());
    // While the next one is under way.
    tokio::time::sleep(Duration::from_secs(3540)).await;
    d.events.send(Event::Replace(loaded(Vec::new()))).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!d.text().contains("job=\"x\""), "{}", d.text());
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_after_its_job_moved_is_none_of_the_new_store() {
    let (old, new) = (World::new(), World::new());
    let long = Fake { takes: Duration::from_secs(1500), ..fake(&old, "a/x") };
    let d = daemon(&old, loaded(vec![entry("0 1 * * *", long)]));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let moved = Entry { history: "new".into(), ..entry("0 1 * * *", fake(&new, "a/x")) };
    d.events.send(Event::Replace(loaded(vec![moved]))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Who wants a backup in the new store is not told of the one in the old.
    let (since, cancel) = (t("2026-11-21T01:20:00Z"), Cancel::new());
    // The run tells the metrics of its success.
    d.metrics.job("a", "x").last_success(Some(t(START)));
    let shown = "last_success_timestamp_seconds{tenant=\"a\",job=\"x\",operation=\"backup\"}";
    let while_the_next_runs = async {
        tokio::time::sleep(Duration::from_secs(23 * 60 + 30)).await;
        assert!(!d.text().contains(shown), "{}", d.text());
    };
    let (told, ()) = tokio::join!(d.asker.ask("a/x", since, &cancel), while_the_next_runs);
    assert_eq!((old.said(), new.said()), (vec!["01:30:00 a/x begins".into()], vec!["01:55:00 a/x begins".into()]));
    let told = done(told);
    assert!(told >= Some(t("2026-11-21T01:55:00Z")), "{told:?}");
    let success = format!("{shown} {}", told.unwrap().secs);
    assert!(d.text().contains(&success), "{success} {}", d.text());
}
