"""What a request believes of the draft tokens in its tree: the chance of each, and of the path that ends with it."""

from __future__ import annotations

from mpispec.core.experience import Experience
from mpispec.core.ids import NodeId, Token
from mpispec.core.tree import Node


class Beliefs:
    """Calibrated chances, kept between two verifications: most draft tokens are looked at several times in between."""

    def __init__(self, experience: Experience) -> None:
        """Go on from what earlier requests have shown, and add to it."""
        self._experience = experience
        self._calibrations = experience.calibrations()
        """By drafters: a draft token that two have made is another thing than one of either."""
        self._is_among_others = False
        self._chances: dict[NodeId, float] = {}
        self._path_probs: dict[NodeId, float] = {}

    def begin(self, root: Node, among_others: bool = False) -> None:
        """Forget what was worked out before the last verification.

        Among others, believe how often such draft tokens of all requests were right: that is much evidence soon, and
        one wrong draft token must not make each of them think the draft worthless.
        """
        self._is_among_others = among_others
        self._chances.clear()
        self._path_probs = {root.id: 1.0}

    def learn(self, root: Node, token: Token) -> None:
        """Learn from the decision after `root`, which has draft tokens, how good these were."""
        share = 1.0 / len(root.children)
        for child in root.children:
            seen = child.prob, child.token == token, child.depth, share
            self._calibrations[child.drafters].learn(*seen)
            self._experience.learn(child.drafters, *seen)

    def of(self, drafters: int, confidence: float) -> float:
        """Return the chance of a draft token of such confidence."""
        return self._calibrations[drafters].chance(confidence)

    def chance(self, node: Node) -> float:
        """Return the chance that a draft token is right, given that its parent is."""
        chance = self._chances.get(node.id)
        if chance is None:
            if self._is_among_others:
                chance = self._experience.rate(node.drafters, node.prob)
            else:
                chance = self._calibrations[node.drafters].chance(node.prob, node.depth)
            self._chances[node.id] = chance
        return chance

    def path_prob(self, node: Node) -> float:
        """Return the chance that all draft tokens down to `node` are right."""
        path_prob = self._path_probs.get(node.id)
        if path_prob is None:
            assert node.parent is not None
            above = self._path_probs.get(node.parent_id)
            path_prob = (self.path_prob(node.parent) if above is None else above) * self.chance(node)
            self._path_probs[node.id] = path_prob
        return path_prob
