"""The levels of BabyAI that minigrid makes and its bot can play, by how hard they are.

Left out are those that the bot cannot play (KeyInBox and PutNext...Carrying), those whose layout takes minigrid minutes
for some seeds (GoToImpUnlock, UnlockToUnlock), and the ...Debug doubles.
"""

from __future__ import annotations

_BY_DIFFICULTY = (
    # to an object in one room
    (
        "GoToLocal GoToLocalS5N2 GoToLocalS6N2 GoToLocalS6N3 GoToLocalS6N4 GoToLocalS7N4 GoToLocalS7N5 "
        "GoToLocalS8N2 GoToLocalS8N3 GoToLocalS8N4 GoToLocalS8N5 GoToLocalS8N6 GoToLocalS8N7 GoToObj GoToObjS4 "
        "GoToObjS6 GoToRedBall GoToRedBallGrey GoToRedBallNoDists"
    ),
    # to a door, through it, or to pick up, in one room
    (
        "ActionObjDoor GoToDoor GoToObjDoor GoToRedBlueBall OneRoomS12 OneRoomS16 OneRoomS8 OpenDoor "
        "OpenDoorColor OpenDoorLoc OpenRedDoor PickupDist PickupLoc"
    ),
    # to put things together or open doors in order
    (
        "MoveTwoAcrossS5N2 OpenDoorsOrderN2 OpenDoorsOrderN4 OpenRedBlueDoors OpenTwoDoors PutNextLocal "
        "PutNextLocalS5N3 PutNextLocalS6N4 PutNextS4N1 PutNextS5N1 PutNextS5N2 PutNextS6N3 PutNextS7N4"
    ),
    # to find the way through a few rooms, keys among it
    (
        "FindObjS5 GoToObjMazeS4 GoToObjMazeS4R2 GoToObjMazeS5 GoToSeqS5R2 KeyCorridorS3R1 PickupAbove UnlockLocal "
        "UnlockLocalDist UnlockPickup"
    ),
    # to find the way through many rooms
    (
        "BlockedUnlockPickup FindObjS6 FindObjS7 GoTo GoToObjMaze GoToObjMazeOpen GoToObjMazeS6 GoToObjMazeS7 "
        "GoToOpen KeyCorridorS3R2 KeyCorridorS3R3 KeyCorridorS4R3 MoveTwoAcrossS8N9 OneRoomS20 Open Pickup "
        "UnblockPickup Unlock UnlockPickupDist"
    ),
    # all of it, in sequence
    (
        "BossLevel BossLevelNoUnlock GoToSeq KeyCorridor KeyCorridorS5R3 KeyCorridorS6R3 MiniBossLevel Synth "
        "SynthLoc SynthS5R2 SynthSeq"
    ),
)
DIFFICULTY = {name: level for level, names in enumerate(_BY_DIFFICULTY) for name in names.split()}
"""Name of a level, without ``BabyAI-`` and version, to its difficulty."""
DEFAULT = tuple(name for name, level in DIFFICULTY.items() if level <= 3)
"""Levels that the expert plays in twenty turns, but for one task in fifty."""


def gym_id(level: str) -> str:
    """Return the name under which minigrid registers a level."""
    return f"BabyAI-{level}-v{1 if level == 'GoToObjS6' else 0}"
