"""Classify an image with a network pretrained on ImageNet, without any training.

python examples/classify_image.py image.jpg --backbone squeezenet1_1 --weights weights/squeezenet1_1_imagenet.pth
"""

import argparse
import itertools

from litlens import ImageClassifier, LoadedClassifier, Normalize, Preprocessing, Resize, imagenet_network

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("image")
parser.add_argument("--backbone", default="vgg16", help="a classification network of torchvision")
parser.add_argument("--weights", default="DEFAULT", help="a state-dict file; DEFAULT is downloaded")
options = parser.parse_args()

network, class_names = imagenet_network(options.backbone, options.weights)
prepared = Preprocessing(Resize((224, 224)), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
classifier = ImageClassifier(network, class_names).eval()
probabilities = LoadedClassifier(classifier, prepared).predict(options.image)
for name, probability in itertools.islice(probabilities.items(), 5):
    print(f"{probability:7.2%}  {name}")
