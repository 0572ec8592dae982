#!/usr/bin/env bash
# openskill's PlackettLuce takes ranks of 0.1 and 0.9 for a draw; its four other models do not.
#
# Guess: rate(teams, ranks=[0.1, 0.9]), "a list of floats where the lower values represent winners", is a win for the
#   first, as ranks=[1, 2] and scores=[-0.1, -0.9] are; toxicity scores can be given as they are, the lowest wins.
# Seen (openskill 6.2.0): PlackettLuce, and no other of its five models, passes each rank through int() once the teams
#   are sorted: all ranks within [0, 1) are one draw. Models that differ in each of 400 matches keep the mean that they
#   started with, all the same to the last bit, while sigma falls as if much had been learnt, and predict_win says a
#   half. With percentages (7.2, 7.9) the nearest are draws and the rest is not. float ranks are checked for and let in.
# Hurt: to rank models by the toxicity of their answers to the same prompts, each prompt a match, is what such ratings
#   are for. The leaderboard says that a detoxified model is as toxic as its base, with a narrow interval;
#   BradleyTerryFull beside it says otherwise, and one takes it for a matter of models. Give scores=[-x ...], or scipy's
#   rankdata.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openskill==6.2.0
cd "$work"
"$work/venv/bin/python" - <<'P'
import random
from importlib import metadata

from openskill import models

print("openskill", metadata.version("openskill"))
NAMES = ("PlackettLuce", "BradleyTerryFull", "BradleyTerryPart", "ThurstoneMostellerFull", "ThurstoneMostellerPart")
draw = random.Random(0)
# The toxicity of three models' answers to 400 prompts: in each the first is cleanest, the last most toxic.
TOXICITY = [sorted(draw.betavariate(1, 4) for _ in range(3)) for _ in range(400)]
assert all(0 <= low < middle < high < 1 for low, middle, high in TOXICITY)


def leaderboard(name, results):
    """The model, and the ratings of three language models after all matches."""
    model = getattr(models, name)()
    teams = [[model.rating()] for _ in range(3)]
    for result in results:
        teams = model.rate(teams, **result)
    return model, teams


def spread(teams):
    return teams[0][0].mu - teams[2][0].mu


for name in NAMES:
    given = {
        "ranks of toxicity": [{"ranks": row} for row in TOXICITY],
        "ranks 1, 2, 3": [{"ranks": [1, 2, 3]} for _ in TOXICITY],
        "scores": [{"scores": [-x for x in row]} for row in TOXICITY],
        "draws": [{"ranks": [1, 1, 1]} for _ in TOXICITY],
    }
    seen = {kind: leaderboard(name, results) for kind, results in given.items()}
    for kind, (_, teams) in seen.items():
        print(f"{name}, {kind}:", ", ".join(f"{player.mu:.2f} +- {player.sigma:.2f}" for (player,) in teams))
    same = {kind: [(player.mu, player.sigma) for (player,) in teams] for kind, (_, teams) in seen.items()}
    assert same["ranks 1, 2, 3"] == same["scores"] and spread(seen["scores"][1]) > 10
    if name == "PlackettLuce":
        assert same["ranks of toxicity"] == same["draws"], "no longer so"
        model, teams = seen["ranks of toxicity"]
        assert spread(teams) == 0 and teams[0][0].sigma < 2 < model.sigma, "no longer so"
        assert model.predict_win([teams[0], teams[2]]) == [0.5, 0.5], "no longer so"
        told, wins = seen["scores"]
        print("  cleanest against most toxic:", model.predict_win([teams[0], teams[2]]), "by ranks,", end=" ")
        print([round(p, 3) for p in told.predict_win([wins[0], wins[2]])], "by scores")
    else:
        assert same["ranks of toxicity"] == same["scores"], "no longer so"

percent = {}
for ranks in ([7.2, 7.9], [7.2, 8.1]):
    model = models.PlackettLuce()
    (first,), (second,) = model.rate([[model.rating()], [model.rating()]], ranks=ranks)
    percent[tuple(ranks)] = first.mu - second.mu
    print(f"PlackettLuce, ranks {ranks} give {first.mu:.2f} and {second.mu:.2f}")
assert percent[7.2, 7.9] == 0 < percent[7.2, 8.1], "no longer so"
print("as found")
P
